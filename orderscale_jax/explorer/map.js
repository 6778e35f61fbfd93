// All lists as a map: d1 down, d2 across, a square per list with the colour of what comes out.
const TINT = 0.42; // of the colour of lists that were trained on, the rest is the surface

// Tells a canvas when the colours of its surroundings change. By a weak reference, as a notebook removes it
// without a word.
function tellOfLook(canvas) {
  for (const query of ["(prefers-color-scheme: dark)", "(prefers-contrast: more)", "(forced-colors: active)"]) {
    matchMedia(query).addEventListener("change", () => canvas.deref()?.dispatchEvent(new Event("osx-look")));
  }
}

function makeMap(canvas, marker, take) {
  const context = canvas.getContext("2d");
  let shown = { N: 0, list: [0, 0] };
  let palette = null;

  // Colours as pixels, of custom properties of the section: in full, and pale.
  function colours() {
    const style = getComputedStyle(canvas);
    const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const read = (name) => {
      probe.fillStyle = style.getPropertyValue(name).trim();
      probe.fillRect(0, 0, 1, 1);
      return Array.from(probe.getImageData(0, 0, 1, 1).data.subarray(0, 3));
    };
    const surface = read("--osx-surface");
    const pixel = ([r, g, b]) => (255 << 24) | (b << 16) | (g << 8) | r;
    const of = OUTCOMES.map((_, i) => read(`--osx-map-${i}`));
    const pale = of.map((colour) => colour.map((x, i) => Math.round(TINT * x + (1 - TINT) * surface[i])));
    return { full: of.map(pixel), pale: pale.map(pixel) };
  }

  function draw(outcomes, N, validation, list) {
    palette ??= colours();
    if (canvas.width !== N) canvas.width = canvas.height = N;
    const image = context.createImageData(N, N);
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < outcomes.length; at++) {
      const isFull = validation === null || validation[at] === 1;
      pixels[at] = (isFull ? palette.full : palette.pale)[outcomes[at]];
    }
    context.putImageData(image, 0, 0);
    marker.style.left = `${(100 * (list[1] + 0.5)) / N}%`;
    marker.style.top = `${(100 * (list[0] + 0.5)) / N}%`;
    shown = { N, list };
  }

  canvas.addEventListener("click", (event) => {
    const box = canvas.getBoundingClientRect();
    const index = (offset, length) => Math.min(shown.N - 1, Math.max(0, Math.floor((shown.N * offset) / length)));
    take([index(event.clientY - box.top, box.height), index(event.clientX - box.left, box.width)]);
  });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const move = moves[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const far = event.shiftKey ? 10 : 1;
    take(shown.list.map((digit, i) => Math.min(shown.N - 1, Math.max(0, digit + far * move[i]))), "map");
  });
  canvas.addEventListener("osx-look", () => (palette = null));
  tellOfLook(new WeakRef(canvas));
  return { draw };
}

// How many lists have each outcome: of all, of those that were not trained on, and of two different digits.
function countOutcomes(outcomes, N, validation) {
  const counts = { all: [0, 0, 0, 0], validation: [0, 0, 0, 0], different: [0, 0, 0, 0] };
  for (let at = 0; at < outcomes.length; at++) {
    counts.all[outcomes[at]]++;
    if (validation !== null && validation[at]) counts.validation[outcomes[at]]++;
  }
  counts.different = [...counts.all];
  for (let d = 0; d < N; d++) counts.different[outcomes[d * (N + 1)]]--;
  return counts;
}

// The map with its legend, which is a table of the counts.
function drawMap(el, map, { state, model, result, outcomes, counts, validation }) {
  map.draw(outcomes, model.N, validation, state.list);
  const total = (of) => of.reduce((a, b) => a + b, 0);
  const columns = [counts.all, counts.different, ...(validation ? [counts.validation] : [])];
  el.mapHead.lastElementChild.hidden = !validation;
  el.mapNote.textContent = validation
    ? "Full colour: lists of the validation set, which were not trained on. Pale: all others."
    : "";
  el.mapRows.replaceChildren(
    ...OUTCOMES.map((name, i) => {
      const row = element("tr", "");
      const head = element("th", "");
      head.scope = "row";
      head.append(element("span", `osx-swatch osx-swatch-${i}`), name);
      const cells = columns.map((of, j) => element("td", "", j ? percent(of[i] / total(of)) : number(of[i])));
      row.append(head, ...cells);
      return row;
    }),
  );
  el.map.setAttribute(
    "aria-label",
    `Map of all ${number(outcomes.length)} lists, d1 down and d2 across; now ${state.list.join(", ")}, ${OUTCOMES[result.outcome]}. ` +
      "Arrow keys move by one digit, with Shift by ten.",
  );
}
