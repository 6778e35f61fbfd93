// What the exact table of all sets of edges says of those that are not cut.
const bitCount = (x) => x.toString(2).replaceAll("0", "").length;

// Null where there is no table for this state.
function readTable({ state, model, table }) {
  if (!table || state.step !== null) return null;
  const full = 2 ** model.edges.length - 1;
  const kept = model.edges.reduce((mask, edge, i) => mask + (state.cuts.includes(edge) ? 0 : 2 ** i), 0);
  const share = (mask) => percent(table.right[mask] / table.outputs);
  const [nearest] = [...table.minimal].sort((a, b) => bitCount(a ^ kept) - bitCount(b ^ kept));
  const names = (mask) => model.edges.filter((_, i) => mask & (2 ** i)).join(", ").replaceAll("<-", "←");
  const steps = [];
  if (nearest & ~kept) steps.push(`restore ${names(nearest & ~kept)}`);
  if (kept & ~nearest) steps.push(`cut ${names(kept & ~nearest)}`);
  return {
    ...table,
    full,
    kept,
    share,
    names,
    isSufficient: table.right[kept] >= table.right[full] - table.tolerance * table.outputs,
    said:
      `With these ${bitCount(kept)} of ${model.edges.length} edges ${share(kept)} of ${number(table.outputs)} ` +
      `validation outputs are right (intact ${share(full)}).`,
    toNearest: steps.length
      ? `To the nearest minimal circuit: ${steps.join("; ")}.`
      : "This is a minimal circuit: no edge of it can be cut.",
  };
}

function drawCutNote(el, read, { state }) {
  el.cutNote.textContent = read && state.cuts.length && state.tab !== "circuits" ? `${read.said} ${read.toNearest}` : "";
}

function drawCircuits(el, read, { state, model, table }, change) {
  if (!read) {
    const why = table ? "The table is of the trained model, not of a step of its training." : "This page holds no table of circuits.";
    el.circuits.replaceChildren(element("p", "", why));
    return;
  }
  const how = { renormalize: "the rest of its row takes its weight over", zero: "its weight is lost" }[state.mode];
  const point = `${100 * read.tolerance} point${read.tolerance === 0.01 ? "" : "s"}`;
  const parts = [
    element("p", read.isSufficient ? "osx-lead" : "osx-lead osx-wrong", read.said),
    element("p", "", read.isSufficient
      ? `That is within ${point} of the intact model: these edges are sufficient.`
      : `That is more than ${point} below the intact model: something is missing.`),
    element("p", "", read.toNearest),
    element("p", "osx-quiet", `Of the table of all ${number(read.full + 1)} sets of edges, where an edge is cut and ${how}. It counts cuts only, not changed weights or latents.`),
  ];
  const focused = Array.from(el.circuits.querySelectorAll("button")).indexOf(document.activeElement);
  const list = element("ul", "osx-circuits");
  for (const mask of read.minimal) {
    const item = element("li", "");
    const cuts = model.edges.filter((_, i) => !(mask & (2 ** i)));
    const press = button("Show", () => change({ ...untouched(state.mode), cuts }));
    press.setAttribute("aria-label", `Show the minimal circuit ${read.names(mask)}`);
    enable(press, mask !== read.kept);
    item.append(press, ` ${bitCount(mask)} edges, ${read.share(mask)}: ${read.names(mask)}`);
    list.append(item);
  }
  el.circuits.replaceChildren(...parts, element("h3", "", "Minimal circuits"), list);
  el.circuits.querySelectorAll("button")[focused]?.focus(); // the list is made anew
}
