# The document as it is served: whole, and for people on one page that fetches nothing.
from __future__ import annotations

import base64
import re
import subprocess
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
import yaml

from mlext.web.places import DOCUMENTS
from ociserver.web.document import operations, resolved, whole


class Elements(HTMLParser):
    """Attributes of every element, anchors, and the text within scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.inline: dict[str, str] = {}
        self.depth = 0
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.depth += tag not in ("meta", "input", "br")
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.depth -= 1
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style"):
            self.inline[self._inside] = data


def test_the_document_is_served_whole(client: httpx.Client) -> None:
    answer = client.get("/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == whole(DOCUMENTS)
    assert answer.json()["openapi"] == "3.1.0"


def test_the_page_fetches_nothing_and_runs_only_its_own(client: httpx.Client) -> None:
    answer = client.get("/docs")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    page = Elements(answer.text)
    assert page.depth == 0
    fetching = {"src", "srcset", "data", "action", "poster", "style"}
    assert not [each for _, each in page.found if fetching & each.keys()]
    assert not [tag for tag, _ in page.found if tag in ("link", "iframe", "object", "img", "base")]
    assert not [each for _, each in page.found if any(name.startswith("on") for name in each)]
    allowed = {
        kind: f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
        for kind, text in page.inline.items()
    }
    assert answer.headers["content-security-policy"] == (
        f"default-src 'none'; style-src {allowed['style']}; script-src {allowed['script']}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def test_the_page_has_all_that_can_be_called_and_every_link_leads_somewhere(
    client: httpx.Client,
) -> None:
    text = client.get("/docs").text
    page = Elements(text)
    anchors = {each["id"] for _, each in page.found if "id" in each}
    links = {each["href"] for tag, each in page.found if tag == "a"}
    assert links - {"/openapi.json"} == {f"#{each}" for each in anchors if f"#{each}" in links}
    articles = re.findall(r"<article.*?</article>", text, re.DOTALL)
    headed = [
        (
            re.search("<b>([A-Z]+)</b>", each),
            re.findall("<code>(/.*?)</code>", each.split("</h3>")[0]),
        )
        for each in articles
    ]
    shown = {(method[1], path) for method, paths in headed if method for path in paths}
    asked = {(method.upper(), path) for path, method, _ in operations(whole(DOCUMENTS))}
    assert shown == {each for each in asked if each[0] != "HEAD"}


@pytest.mark.parametrize(
    ("anchor", "status"),
    [("get-healthz", "200"), ("put-v1-runs-run-id", "200"), ("get-v2-name-tags-list", "404")],
)
def test_a_command_on_the_page_can_be_copied(
    client: httpx.Client, anchor: str, status: str
) -> None:
    text = unescape(client.get("/docs").text)
    export = re.search("<pre>export (LADING_SERVER=[^ ]+) ", text)
    command = re.search(f'<article id="{anchor}">.*?<pre>(curl .*?)</pre>', text, re.DOTALL)
    assert export is not None
    assert command is not None
    script = f"{export[1]} LADING_USER=ann:a; {command[1]} -s -o /dev/null -w '%{{http_code}}'"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == status


def test_what_a_client_calls_us_is_no_html(client: httpx.Client) -> None:
    answer = client.get("/docs", headers={"Host": "a<script>alert(1)</script>"})
    assert answer.status_code in (200, 400)
    assert "<script>alert" not in answer.text


def test_what_two_files_say_of_one_path_is_a_mistake(tmp_path: Path) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(yaml.safe_dump({"paths": {"/more": {}}, "tags": [{"name": "more"}], "x-a": 1}))
    document = whole([more])
    assert "/more" in document["paths"]
    assert document["tags"][-1] == {"name": "more"}
    assert "x-a" not in document
    with pytest.raises(ValueError, match="/more is said twice"):
        whole([more, more])


def test_every_reference_leads_to_something() -> None:
    document = whole(DOCUMENTS)
    todo: list[object] = [document]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            assert "$ref" not in node or resolved(document, node)
            todo += node.values()
        elif isinstance(node, list):
            todo += node
