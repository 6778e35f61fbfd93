// The state as JSON and as a Python call, the picture as SVG and PNG.
const LOOK = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap", "opacity", "font-size", "font-weight", "font-family", "text-anchor"];

// What `orderscale_jax.explorer.evaluate` takes: only what differs from the model as it is.
function toEvaluate(state) {
  const parts = { model: state.model };
  if (state.step !== null) parts.step = state.step;
  parts.list = state.list;
  for (const [key, value] of Object.entries(UNTOUCHED)) if (!same(state[key], value)) parts[key] = state[key];
  return parts;
}

function toPython(state, isShipped) {
  const literal = (value) => {
    if (value === null) return "None";
    if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
    if (typeof value === "object") return `{${Object.entries(value).map(([k, v]) => `${literal(k)}: ${literal(v)}`).join(", ")}}`;
    return JSON.stringify(value);
  };
  const { model, ...rest } = toEvaluate(state);
  const lines = Object.entries(isShipped ? { model, ...rest } : rest).map(([key, value]) => `    "${key}": ${literal(value)},`);
  const call = isShipped ? "evaluate(state)" : "evaluate(state, model)";
  const load = isShipped ? [] : ["from orderscale_jax import load_checkpoint"];
  const set = isShipped ? [] : ['model, _ = load_checkpoint("…/checkpoint")  # the directory of the model on this page', ""];
  return [...load, "from orderscale_jax.explorer import evaluate", "", ...set, "state = {", ...lines, "}",
    `logits = ${call}  # [1, 2, V]`, "print(logits.argmax(-1))", ""].join("\n");
}

// A picture that stands alone: the flow with its looks written into it, the map beside it, the state below.
function pictureOf(flow, canvas, caption, background, ink) {
  const [, , width, height] = flow.getAttribute("viewBox").split(" ").map(Number);
  const copy = flow.cloneNode(true);
  const originals = flow.querySelectorAll("*");
  copy.querySelectorAll("*").forEach((node, i) => {
    const style = getComputedStyle(originals[i]);
    for (const name of LOOK) node.setAttribute(name, style.getPropertyValue(name));
    for (const name of ["class", "style", "tabindex", "role", "aria-label", "aria-pressed", "data-edge", "data-node"]) node.removeAttribute(name);
  });
  copy.querySelectorAll("title").forEach((title) => title.remove());
  const map = height - 30;
  const whole = svgElement("svg", { xmlns: SVG, viewBox: `0 0 ${width + map + 50} ${height + 56}`, width: 2 * (width + map + 50), height: 2 * (height + 56) });
  whole.append(svgElement("rect", { width: "100%", height: "100%", fill: background }));
  const left = svgElement("g", { transform: "translate(12 12)" });
  left.append(...copy.childNodes);
  const text = { fill: ink, "font-family": "sans-serif", "font-size": 12 };
  whole.append(left);
  const image = svgElement("image", { x: width + 30, y: 34, width: map, height: map, href: canvas.toDataURL("image/png"), style: "image-rendering: pixelated" });
  whole.append(svgElement("text", { ...text, x: width + 30, y: 26 }, "all lists: d1 down, d2 across"), image);
  caption.forEach((line, i) => whole.append(svgElement("text", { ...text, x: 12, y: height + 28 + 16 * i }, line)));
  return new XMLSerializer().serializeToString(whole);
}

async function toPng(svg) {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}

function download(name, href) {
  const link = document.createElement("a");
  [link.download, link.href] = [name, href];
  link.click();
}
const asData = (kind, text) => `data:${kind};charset=utf-8,${encodeURIComponent(text)}`;
