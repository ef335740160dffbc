// Shows only the articles that have every word of what is looked for, and only links to these.
const find = document.getElementById("find");
const articles = [...document.querySelectorAll("article")].map((each) => [each, each.textContent.toLowerCase()]);
find.addEventListener("input", () => {
  const words = find.value.toLowerCase().split(/\s+/);
  for (const [article, text] of articles) {
    article.hidden = !words.every((word) => text.includes(word));
  }
  for (const link of document.querySelectorAll("nav li a")) {
    const article = document.getElementById(link.hash.slice(1));
    link.parentNode.hidden = article.hidden;
  }
});
