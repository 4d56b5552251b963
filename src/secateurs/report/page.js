"use strict";
// A click on a column's name sorts its table by it, numbers as numbers; a second click turns it round.

const CELL = /^[-+\u2212]?[\d,]*\.?\d+(e[-+]?\d+)?/i;

function valueOf(row, column) {
  const text = row.cells[column].textContent.trim();
  const number = text.replace(/[\u00a0\u202f ]/g, "").match(CELL);
  if (!number) return text;
  return Number(number[0].replace(/,/g, "").replace("\u2212", "-"));
}

function compare(one, other) {
  const bothNumbers = typeof one === "number" && typeof other === "number";
  if (bothNumbers) return one - other;
  return String(one).localeCompare(String(other), undefined, { numeric: true });
}

function sortBy(header) {
  const rising = header.getAttribute("aria-sort") !== "ascending";
  const body = header.closest("table").tBodies[0];
  const rows = [...body.rows];
  rows.sort((one, other) => compare(valueOf(one, header.cellIndex), valueOf(other, header.cellIndex)));
  if (!rising) rows.reverse();
  for (const sibling of header.parentNode.cells) sibling.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", rising ? "ascending" : "descending");
  body.append(...rows);
}

for (const header of document.querySelectorAll("thead th")) {
  header.tabIndex = 0;
  header.title = "Sort by this column";
  header.addEventListener("click", () => sortBy(header));
  header.addEventListener("keydown", (event) => {
    if (event.key === "Enter") sortBy(header);
  });
}
