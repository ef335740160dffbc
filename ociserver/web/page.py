"""The document of the wire as one page for people: plain HTML that fetches nothing. Pure.

What an operation takes and answers, and a curl command for it, stand in one article with an
anchor. A schema is shown once, and linked to from wherever it is used.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote, urlencode

from ociserver.web.document import operations, resolved

Node = Mapping[str, Any]

_CODE = re.compile(r"`([^`]+)`")
_NO_ANCHOR = re.compile(r"[^a-z0-9]+")
_REFUSED = "400"
_SCHEMAS = "#/components/schemas/"
_BOUNDS = {
    "format": "{}",
    "pattern": "like {}",
    "minimum": "from {}",
    "maximum": "to {}",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minItems": "at least {}",
    "maxItems": "at most {}",
    "minProperties": "at least {}",
    "maxProperties": "at most {}",
    "default": "{} unless said",
}


@dataclass(frozen=True, slots=True)
class _Call:
    """One operation, at each of the paths that lead to it."""

    method: str
    paths: tuple[str, ...]
    operation: Node
    is_read: bool

    @property
    def anchor(self) -> str:
        return _NO_ANCHOR.sub("-", f"{self.method}-{self.paths[0]}".lower()).strip("-")


def page(document: Node, *, style: str, script: str) -> str:
    """Return the page. `{origin}` in it stands for the registry's address, escaped."""
    calls = list(_calls(document))
    titles = {each["name"]: each["description"] for each in document["tags"]}
    info = document["info"]
    parts = [
        (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{info['title']}</title>"
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{style}</style></head><body><nav>"
        ),
        '<input id="find" type="search" placeholder="find: promote, /aliases, 409, …" autofocus>',
        *(_index(tag, [each for each in calls if _is_of(each, tag)]) for tag in titles),
        '<p><a href="#schemas">schemas</a></p></nav><main>',
        (
            f"<h1>{info['title']}</h1><p>{_prose(info['summary'])}.</p>"
            f"<p>{_prose(info['description'])}</p>"
        ),
        (
            "<p>For the commands below. curl asks for the password; the document itself is at "
            '<a href="/openapi.json">/openapi.json</a>.</p>'
            "<pre>export LADING_SERVER={origin} LADING_USER=$USER</pre>"
        ),
        *_sections(document, calls, titles),
        '<h2 id="schemas">Schemas</h2>',
        *(_schema(name, each) for name, each in sorted(document["components"]["schemas"].items())),
        f"</main><script>{script}</script></body></html>",
    ]
    return "\n".join(parts)


def _calls(document: Node) -> Iterator[_Call]:
    """Yield what there is to call; HEAD goes without saying, and twins go together."""
    twins: dict[str, list[str]] = {}
    for path, item in document["paths"].items():
        twins.setdefault(json.dumps(item), []).append(path)
    first = {paths[0]: tuple(paths) for paths in twins.values()}
    for path, method, operation in operations(document):
        if path in first and method != "head":
            yield _Call(method.upper(), first[path], operation, method == "get")


def _is_of(call: _Call, tag: str) -> bool:
    return bool(call.operation["tags"][0] == tag)


def _index(tag: str, calls: Sequence[_Call]) -> str:
    rows = "".join(
        f'<li><a href="#{each.anchor}"><b>{each.method}</b> {escape(each.paths[0])}</a></li>'
        for each in calls
    )
    return f"<details open><summary>{tag}</summary><ul>{rows}</ul></details>"


def _sections(document: Node, calls: Sequence[_Call], titles: Mapping[str, str]) -> Iterator[str]:
    for tag, title in titles.items():
        yield f'<section><h2 id="{tag}">{tag}</h2><p>{_prose(title)}</p>'
        yield from (_article(document, each) for each in calls if _is_of(each, tag))
        yield "</section>"


def _article(document: Node, call: _Call) -> str:
    said = call.operation
    paths = "<br>".join(f"<code>{escape(each)}</code>" for each in call.paths)
    parameters = [resolved(document, each) for each in said["parameters"]]
    body = said.get("requestBody")
    parts = [
        (
            f'<article id="{call.anchor}"><h3><a href="#{call.anchor}"><b>{call.method}</b>'
            f" {paths}</a></h3><p>{_prose(said['summary'])}.</p>"
        ),
        f"<p>{_prose(said.get('description', ''))}</p>" if "description" in said else "",
        f"<pre>{escape(_command(call, document, parameters))}</pre>",
        _table("Takes", (_parameter(each) for each in parameters)),
        _table("Body", _media(body["content"], body)) if body else "",
        *_answers({status: resolved(document, each) for status, each in said["responses"].items()}),
        "</article>",
    ]
    return "\n".join(part for part in parts if part)


def _table(title: str, rows: Iterable[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    caption = f"<caption>{title}</caption>" if title else ""
    return f"<table>{caption}{lines}</table>" if lines else ""


def _parameter(said: Node) -> tuple[str, str, str]:
    must = " <i>required</i>" if said.get("required") and said["in"] != "path" else ""
    name = f"<code>{escape(said['name'])}</code>"
    return f"{name} {said['in']}{must}", _kind(said["schema"]), _prose(said.get("description", ""))


def _media(content: Node, said: Node) -> Iterator[tuple[str, str, str]]:
    for number, (media_type, each) in enumerate(content.items()):
        note = _prose(said.get("description", "")) if number == 0 else ""
        yield f"<code>{escape(media_type)}</code>", _kind(each["schema"]), note


def _answers(said: Mapping[str, Node]) -> Iterator[str]:
    """Yield what is answered, and folded what is refused."""
    refused = sorted(status for status in said if status >= _REFUSED)
    answered = sorted(said.keys() - refused)
    yield _table("Answers", (_answer(status, said[status]) for status in answered))
    rows = _table("", (_answer(status, said[status]) for status in refused))
    yield f"<details><summary>or {', '.join(refused)}</summary>{rows}</details>"


def _answer(status: str, said: Node) -> tuple[str, str, str]:
    headers = ", ".join(f"<code>{escape(each)}</code>" for each in said.get("headers", {}))
    note = _prose(said["description"]) + (f"<br>with {headers}" if headers else "")
    shown = dict.fromkeys(_kind(each["schema"]) for each in said.get("content", {}).values())
    return f"<b>{status}</b>", "<br>or ".join(shown), note


def _schema(name: str, said: Node) -> str:
    return (
        f'<article id="schema-{name}"><h3><a href="#schema-{name}">{name}</a></h3>'
        f"{_kind(said)}</article>"
    )


def _kind(said: Node) -> str:
    """Return what a value must be like."""
    if "$ref" in said:
        name = said["$ref"].removeprefix(_SCHEMAS)
        return f'<a href="#schema-{name}">{name}</a>'
    parts = []
    for key, word in (("allOf", " and "), ("anyOf", " or "), ("oneOf", " or ")):
        if key in said:
            parts.append(word.join(_kind(each) for each in said[key]))
    if "const" in said:
        parts.append(_value(said["const"]))
    if "enum" in said:
        parts.append(", ".join(map(_value, said["enum"])))
    types = said.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types:
        parts.append(escape(" or ".join(types)))
    parts += (
        escape(text.format(json.dumps(said[key], ensure_ascii=False).strip('"')))
        for key, text in _BOUNDS.items()
        if key in said
    )
    if "items" in said:
        parts.append(f"of {_kind(said['items'])}")
    found = ", ".join(parts) or "anything"
    if "description" in said:
        found += f": {_prose(said['description'])}"
    return found + _properties(said)


def _properties(said: Node) -> str:
    required = said.get("required", ())
    rows = [
        (f"<code>{escape(key)}</code>{' <i>required</i>' if key in required else ''}", _kind(each))
        for key, each in said.get("properties", {}).items()
    ]
    others = said.get("additionalProperties")
    if isinstance(others, dict):
        rows.append(("any other", _kind(others)))
    return _table("", rows)


def _value(found: object) -> str:
    return f"<code>{escape(json.dumps(found, ensure_ascii=False).strip(chr(34)))}</code>"


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text.strip().rstrip("."), quote=False))


def _command(call: _Call, document: Node, parameters: Sequence[Node]) -> str:
    """Return a curl command that calls it."""
    path, query = call.paths[0], {}
    for each in parameters:
        if each["in"] == "path":
            value = quote(str(_example(document, each, each["name"].upper())), safe="/:")
            path = path.replace(f"{{{each['name']}}}", value)
        elif each["in"] == "query" and each.get("required"):
            query[each["name"]] = str(_example(document, each, each["name"].upper()))
    path += f"?{urlencode(query, safe=':')}" if query else ""
    said = call.operation
    words = ["curl"]
    if said.get("security", document["security"]) != [{}]:
        words.append('-u "$LADING_USER"')
    words += [] if call.is_read else [f"-X {call.method}"]
    for media_type, each in list(said.get("requestBody", {"content": {}})["content"].items())[:1]:
        body = shlex.quote(json.dumps(each["example"])) if "example" in each else "@FILE"
        words.append(f"-H 'Content-Type: {media_type}' --data-binary {body}")
    return " ".join([*words, f'"$LADING_SERVER{path}"'])


def _example(document: Node, said: Node, otherwise: str) -> object:
    schema = resolved(document, said["schema"])
    return said.get("example", schema.get("example", schema.get("enum", [otherwise])[0]))
