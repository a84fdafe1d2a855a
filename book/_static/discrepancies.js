// Filters the entries of the page of discrepancies by words, paper, severity and how sure we are of what they say.
const article = document.querySelector("article");
const entries = [...article.querySelectorAll("dl > dt")].map((term) => {
  const text = term.nextElementSibling;
  const said = text.querySelector("p").textContent.match(/\(((?:paper|code|log|readme|issue|computed|quoted)[^()]*)\)\s*$/);
  return {
    term,
    text,
    words: (term.textContent + " " + text.textContent).toLowerCase(),
    paper: term.closest("section").querySelector("h2").firstChild.textContent.trim(),
    sources: said ? said[1].split(", ") : [],
    severity: text.querySelector("p:last-of-type").textContent.replace("Severity: ", "").replace(".", "").trim(),
  };
});

const choice = (label, values) => {
  const select = Object.assign(document.createElement("select"), { className: "form-select" });
  select.append(new Option("all", ""), ...[...new Set(values)].map((value) => new Option(value, value)));
  return labelled(label, select);
};
const labelled = (text, control) => {
  control.id = `filter-${text.toLowerCase().replace(" ", "-")}`;
  const box = document.createElement("div");
  box.append(Object.assign(document.createElement("label"), { htmlFor: control.id, textContent: text }), control);
  form.append(box);
  return control;
};

const form = Object.assign(document.createElement("form"), { className: "discrepancy-filter" });
const words = labelled("Words", Object.assign(document.createElement("input"), { type: "search", className: "form-control" }));
const paper = choice("Paper", entries.map((entry) => entry.paper));
const severity = choice("Severity", entries.map((entry) => entry.severity));
const source = choice("Read in", entries.flatMap((entry) => entry.sources));
const count = document.createElement("output");
form.append(count);

const filter = () => {
  const wanted = words.value.toLowerCase().split(/\s+/);
  let shown = 0;
  for (const entry of entries) {
    const fits =
      wanted.every((word) => entry.words.includes(word)) &&
      (!paper.value || entry.paper === paper.value) &&
      (!severity.value || entry.severity === severity.value) &&
      (!source.value || entry.sources.includes(source.value));
    entry.term.hidden = entry.text.hidden = !fits;
    shown += fits;
  }
  for (const section of article.querySelectorAll("section section")) {
    section.hidden = Boolean(section.querySelector("dt")) && !section.querySelector("dt:not([hidden])");
  }
  count.value = `${shown} of ${entries.length} differences`;
};
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
article.querySelector("section section").before(form);
filter();
