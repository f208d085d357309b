"use strict";
{
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const table = document.getElementById("observations");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const find = document.getElementById("find");
  const verdict = document.getElementById("verdict");
  const of = document.getElementById("of");
  const count = document.getElementById("count");
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  // ---------------------------------------------------------------- sorting
  let sorted = null;

  const text = (cell) => cell.textContent.trim();
  const value = (cell) => {
    const raw = cell.dataset[of.value] ?? cell.dataset.v ?? "";
    return raw === "" ? NaN : Number(raw);
  };

  function sort() {
    if (!sorted) return;
    const { column, kind, sign } = sorted;
    const key = (row) => (kind === "number" ? value(row.cells[column]) : text(row.cells[column]));
    const compare = (a, b) => {
      if (kind !== "number") return sign * collator.compare(a, b);
      // What has no number comes last in either direction.
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
      return sign * (a - b);
    };
    const keyed = rows.map((row) => [key(row), row]);
    keyed.sort((a, b) => compare(a[0], b[0]));
    body.append(...keyed.map(([, row]) => row));
  }

  for (const head of all("th[data-sort]", table)) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of all("th[aria-sort]", table)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sorted = { column: head.cellIndex, kind: head.dataset.sort, sign: descending ? -1 : 1 };
      sort();
    });
  }

  // ---------------------------------------------------------------- filtering
  function filter() {
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const kept = new Set();
    let shown = 0;
    for (const row of rows) {
      const named = row.dataset.find.toLowerCase();
      const fits = words.every((word) => named.includes(word));
      row.hidden = !(fits && (!verdict.value || row.dataset.verdict === verdict.value));
      if (!row.hidden) {
        shown += 1;
        kept.add(row.dataset.entry);
      }
    }
    for (const article of all("article")) article.hidden = !kept.has(article.id);
    count.textContent = `${shown} of ${rows.length} runs`;
  }

  // Four digits, as everywhere on the page.
  const digits = (raw) => {
    if (raw === "") return "none";
    const number = Number(raw);
    const size = Math.abs(number);
    let shown = number.toPrecision(4);
    if (size >= 1e4 && size < 1e7) shown = number.toFixed(0);
    else if (size > 0 && size < 1e-4) shown = number.toExponential(3);
    return shown.replaceAll("-", "\u2212");
  };

  find.addEventListener("input", filter);
  verdict.addEventListener("change", filter);
  of.addEventListener("change", () => {
    for (const cell of all("td[data-mean]", body)) cell.textContent = digits(cell.dataset[of.value]);
    sort();
  });
  const controls = document.getElementById("controls");
  controls.addEventListener("submit", (event) => event.preventDefault());
  controls.hidden = false;
  filter();

  // ---------------------------------------------------------------- two images, one above the other
  function choice(figures, chosen, label, changed) {
    const select = document.createElement("select");
    select.setAttribute("aria-label", label);
    for (const figure of figures) select.add(new Option(text(figure.querySelector("figcaption"))));
    select.selectedIndex = chosen;
    select.addEventListener("change", changed);
    return select;
  }

  function compare(images) {
    const figures = all("figure", images);
    if (figures.length < 2) return;
    const pair = document.createElement("div");
    pair.className = "pair";
    const range = document.createElement("input");
    Object.assign(range, { type: "range", min: 0, max: 100, value: 50 });
    const show = () => {
      const shown = [left, right].map((select) => figures[select.selectedIndex].querySelector("img"));
      pair.replaceChildren(...shown.map((image) => image.cloneNode()));
      const names = [left, right].map((select) => select.value);
      range.setAttribute("aria-label", `How much of ${names[0]} is shown, over ${names[1]}`);
    };
    const left = choice(figures, 0, "Image on the left", show);
    const right = choice(figures, 1, "Image on the right", show);
    const cut = () => {
      pair.style.setProperty("--cut", `${range.value}%`);
      range.setAttribute("aria-valuetext", `${range.value} %`);
    };
    range.addEventListener("input", cut);
    const ends = document.createElement("div");
    ends.className = "ends";
    ends.append(left, right);
    const slider = document.createElement("div");
    slider.className = "slider";
    slider.append(pair, range, ends);
    show();
    cut();
    images.prepend(slider);
    images.classList.add("compared");
  }
  for (const images of all(".images")) compare(images);

  // ---------------------------------------------------------------- links to what is filtered away
  addEventListener("hashchange", () => {
    const target = document.getElementById(location.hash.slice(1));
    if (target) target.hidden = false;
  });
}
