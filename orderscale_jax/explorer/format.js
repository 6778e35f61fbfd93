// How things are said and made: numbers, tokens and elements.
const SVG = "http://www.w3.org/2000/svg";
const formatter = new Intl.NumberFormat("en");
const number = (value) => formatter.format(value);
const weightText = (weight) => weight.toFixed(3);
// With two decimals, as in the report; what is neither nothing nor all is not rounded to it.
function percent(share) {
  if (share > 0 && share < 0.0001) return "<0.01 %";
  if (share < 1 && share > 0.9999) return ">99.99 %";
  return `${(100 * share).toFixed(2)} %`;
}

const tokenName = (model, token) => ({ [model.MASK]: "MASK", [model.SEP]: "SEP" })[token] ?? String(token);
// Which input a token is: "d1", "d2", "d1 and d2" or nothing; and the class of its colour.
const roleOf = (state, token) => ["d1", "d2"].filter((_, i) => state.list[i] === token).join(" and ");
const roleClass = (state, token) => ({ d1: "osx-d1", d2: "osx-d2" })[roleOf(state, token).slice(0, 2)] ?? "";

function element(tag, className, text) {
  const node = document.createElement(tag);
  node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}
function button(text, press) {
  const node = element("button", "", text);
  node.type = "button";
  node.addEventListener("click", () => isOff(node) || press());
  return node;
}
// Not `disabled`, which would take the focus away from who has just used it.
function enable(node, isOn) {
  node.setAttribute("aria-disabled", String(!isOn));
}
const isOff = (node) => node.getAttribute("aria-disabled") === "true";
function svgElement(tag, attributes = {}, text) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
