// A model as tables, and what it says of a list under a state of the page. With one head and frozen projections
// a residual is a sum of eight vectors ("atoms") with scales, so this is the model itself, up to rounding.
// E[d1], E[d2], P_1, P_2; SEP, o1, o2 at the start; and what an autoencoder puts in SEP's place after layer 0.
const [D1, D2, P1, P2, S, M1, M2, R] = [0, 1, 2, 3, 4, 5, 6, 7];
const ATOMS = 8;
const POSITIONS = ["d1", "d2", "SEP", "o1", "o2"];
const IN_SEP = "L0 SEP"; // the row whose weights digits and positions may have of their own
const SMALLEST_ROW_SUM = 1e-12; // of a cut row before it is rescaled, as in the library
const OUTCOMES = ["right", "reversed", "one wrong", "wrong"];
const WEIGHT_NAMES = ["swap", "reversed", "even"];

const bytes = (base64) => Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
const floats = (base64) => new Float32Array(bytes(base64).buffer);
const parseEdge = (label) => {
  const [layer, query, key] = label.match(/^L(\d+) (\w+)<-(\w+)$/).slice(1);
  return { label, layer: Number(layer), query: POSITIONS.indexOf(query), key: POSITIONS.indexOf(key) };
};

function softmax(scores) {
  let largest = -Infinity;
  for (const score of scores) largest = Math.max(largest, score);
  const weights = Array.from(scores, (score) => Math.exp(score - largest));
  const sum = weights.reduce((a, b) => a + b, 0);
  return weights.map((weight) => weight / sum);
}

// The arg-max of rows with scales: three of one table; or one in A, one in B, three or five in C.
function argMaxOfThree(A, a, x, b, y, c, z, V) {
  let best = 0;
  let most = -Infinity;
  for (let v = 0; v < V; v++) {
    const logit = x * A[a + v] + y * A[b + v] + z * A[c + v];
    if (logit > most) {
      most = logit;
      best = v;
    }
  }
  return best;
}
function argMaxOfFive(A, a, x, B, b, y, C, c, z, d, u, e, w, V) {
  let best = 0;
  let most = -Infinity;
  for (let v = 0; v < V; v++) {
    const logit = x * A[a + v] + y * B[b + v] + z * C[c + v] + u * C[d + v] + w * C[e + v];
    if (logit > most) {
      most = logit;
      best = v;
    }
  }
  return best;
}
function argMaxOfSeven(A, a, x, B, b, y, C, c, z, d, u, e, w, f, p, g, q, V) {
  let best = 0;
  let most = -Infinity;
  for (let v = 0; v < V; v++) {
    const logit =
      x * A[a + v] + y * B[b + v] + z * C[c + v] + u * C[d + v] + w * C[e + v] + p * C[f + v] + q * C[g + v];
    if (logit > most) {
      most = logit;
      best = v;
    }
  }
  return best;
}

// n_digits, edges (labels of the live ones), n_layers; logits [A, V]; scores: by layer rows (null for all)
// and values [R, A], with A = n_digits + 5 atoms and V = n_digits + 2; sae: what makeSae gives, for two layers.
function makeModel({ n_digits: N, n_layers: L, edges, logits, scores, sae = null }) {
  const V = N + 2;
  const A = N + 5;
  const WIDE = A + 1; // the last atom is made anew for every list
  const [MASK, SEP] = [N, N + 1];
  const tables = scores.map(({ rows, values }) => {
    const offsets = new Int32Array(WIDE).fill(-1);
    const wide = new Float64Array((values.length / A) * WIDE);
    (rows ?? Array.from({ length: A }, (_, i) => i)).forEach((atom, i) => {
      offsets[atom] = i * WIDE;
      wide.set(values.subarray(i * A, (i + 1) * A), i * WIDE);
    });
    return { offsets, values: wide };
  });
  // What a row of attention reads: [{layer, query, keys, labels, name}], in the order of computation.
  const reads = [];
  for (const edge of edges.map(parseEdge)) {
    const last = reads.at(-1);
    if (last?.layer === edge.layer && last.query === edge.query) {
      last.keys.push(edge.key);
      last.labels.push(edge.label);
    } else {
      const name = `L${edge.layer} ${POSITIONS[edge.query]}`;
      reads.push({ layer: edge.layer, query: edge.query, keys: [edge.key], labels: [edge.label], name });
    }
  }
  const choices = reads.filter((read) => read.keys.length === 2);
  // Who comes later reads who comes before. So if the last position reads first, every one finds what the
  // others held before the layer, and one set of residuals is enough.
  reads.sort((a, b) => a.layer - b.layer || b.query - a.query);

  // Rows of the logit table, and of digits with their position.
  const row = (atom) => atom * V;
  const table = new Float64Array(WIDE * V);
  table.set(logits);
  const fused = [0, 1].map((i) => {
    const sums = new Float64Array(N * V);
    for (let d = 0; d < N; d++) {
      for (let v = 0; v < V; v++) sums[d * V + v] = table[row(d) + v] + table[row(N + i) + v];
    }
    return sums;
  });
  const residuals = new Float64Array(POSITIONS.length * ATOMS);
  const atomsOf = new Int32Array([0, 0, N, N + 1, N + 2, N + 3, N + 4, A]);
  const weights = new Float64Array(2 * reads.length); // after cuts
  const before = new Float64Array(2 * reads.length); // as the model computes or the reader sets them
  const places = new Float64Array(2); // what SEP reads of P_1 and P_2 in layer 0, after cuts
  const placesBefore = new Float64Array(2);

  // The score of the second key less that of the first: scores are linear in the key.
  function gapOfScores(layer, query, first, second) {
    const offsets = tables[layer].offsets;
    const values = tables[layer].values;
    for (let b = 0; b < ATOMS; b++) gaps[b] = residuals[second + b] - residuals[first + b];
    let sum = 0;
    for (let a = 0; a < ATOMS; a++) {
      const scale = residuals[query + a];
      if (scale === 0) continue;
      const from = offsets[atomsOf[a]];
      let inner = 0;
      for (let b = 0; b < ATOMS; b++) inner += gaps[b] * values[from + atomsOf[b]];
      sum += scale * inner;
    }
    return sum;
  }
  const gaps = new Float64Array(ATOMS);

  // alpha_1 of any list: SEP has read nothing yet when it chooses in layer 0.
  const [asFirst, asSecond] = [0, 1].map((i) =>
    Float64Array.from({ length: N }, (_, d) => {
      const { offsets, values } = tables[0];
      return values[offsets[N + 2] + d] + values[offsets[N + 2] + N + i];
    }),
  );
  function alpha(first, second) {
    return 1 / (1 + Math.exp(asSecond[second] - asFirst[first]));
  }

  // The first of the two weights in SEP, of digits or of positions, where the second is the rest.
  function chosen(code, own, ofReversed) {
    if (code === 0) return own;
    if (code === 1) return 1 - own;
    return code === 2 ? ofReversed : 0.5;
  }

  function cutInto(target, at, first, second, keepFirst, keepSecond, renormalize) {
    let a = keepFirst ? first : 0;
    let b = keepSecond ? second : 0;
    if (renormalize && !(keepFirst && keepSecond)) {
      const left = a + b;
      const scale = left > 0 ? 1 + (first + second - left) / Math.max(left, SMALLEST_ROW_SUM) : 0;
      a *= scale;
      b *= scale;
    }
    target[at] = a;
    target[at + 1] = b;
  }

  // What a state asks for, in the form that the loops below need.
  function prepare(state) {
    const code = (wanted) => (wanted === null ? 0 : 1 + WEIGHT_NAMES.indexOf(wanted));
    const part = (wanted) => (Array.isArray(wanted) ? { given: wanted, code: -1 } : { given: null, code: code(wanted) });
    return {
      renormalize: state.mode === "renormalize",
      keep: reads.map(({ labels }) => labels.map((label) => !state.cuts.includes(label))),
      digits: part(state.digit_weights),
      places: part(state.position_weights),
      patterns: reads.map(({ name }) => state.patterns[name] ?? null),
      scales: state.latents && Float64Array.from({ length: sae.F }, (_, f) => state.latents[f] ?? 1),
    };
  }

  // The whole pass for one list: leaves the final residuals, weights and before. Called for all lists at
  // every redraw, so it makes no arrays; with `layers` it adds a copy of the residuals after each layer.
  function forward(d1, d2, plan, layers = null) {
    atomsOf[D1] = d1;
    atomsOf[D2] = d2;
    for (let i = 0; i < residuals.length; i++) residuals[i] = 0;
    residuals[0 * ATOMS + D1] = residuals[0 * ATOMS + P1] = 1;
    residuals[1 * ATOMS + D2] = residuals[1 * ATOMS + P2] = 1;
    residuals[2 * ATOMS + S] = residuals[3 * ATOMS + M1] = residuals[4 * ATOMS + M2] = 1;
    if (layers !== null) layers.push(residuals.slice());
    for (let r = 0; r < reads.length; r++) {
      const read = reads[r];
      const to = read.query * ATOMS;
      const keep = plan.keep[r];
      const at = 2 * r;
      const first = read.keys[0] * ATOMS;
      if (read.keys.length === 1) {
        before[at] = 1;
        weights[at] = keep[0] ? 1 : 0;
        if (keep[0]) for (let a = 0; a < ATOMS; a++) residuals[to + a] += residuals[first + a];
      } else if (read.layer === 0) {
        readInto(at, to, d1, d2, keep, plan);
        if (sae !== null && (plan.scales !== null || layers !== null)) replaceSep(to, d1, d2, plan);
      } else {
        const second = read.keys[1] * ATOMS;
        const given = plan.patterns[r];
        if (given !== null) {
          before[at] = given[0];
          before[at + 1] = given[1];
        } else {
          before[at] = 1 / (1 + Math.exp(gapOfScores(read.layer, to, first, second)));
          before[at + 1] = 1 - before[at];
        }
        cutInto(weights, at, before[at], before[at + 1], keep[0], keep[1], plan.renormalize);
        const a = weights[at];
        const b = weights[at + 1];
        for (let i = 0; i < ATOMS; i++) residuals[to + i] += a * residuals[first + i] + b * residuals[second + i];
      }
      if (layers !== null && reads[r + 1]?.layer !== read.layer) layers.push(residuals.slice());
    }
  }

  // What SEP reads in layer 0, where digits and positions may have weights of their own.
  function readInto(at, to, d1, d2, keep, plan) {
    const own = alpha(d1, d2);
    const ofReversed = plan.digits.code === 2 || plan.places.code === 2 ? alpha(d2, d1) : 0;
    // In the reversed list d1's digit stands second, and is weighted by its alpha_2.
    before[at] = plan.digits.given !== null ? plan.digits.given[0] : chosen(plan.digits.code, own, 1 - ofReversed);
    before[at + 1] = plan.digits.given !== null ? plan.digits.given[1] : 1 - before[at];
    placesBefore[0] = plan.places.given !== null ? plan.places.given[0] : chosen(plan.places.code, own, ofReversed);
    placesBefore[1] = plan.places.given !== null ? plan.places.given[1] : 1 - placesBefore[0];
    cutInto(weights, at, before[at], before[at + 1], keep[0], keep[1], plan.renormalize);
    cutInto(places, 0, placesBefore[0], placesBefore[1], keep[0], keep[1], plan.renormalize);
    residuals[to + D1] += weights[at];
    residuals[to + D2] += weights[at + 1];
    residuals[to + P1] += places[0];
    residuals[to + P2] += places[1];
  }

  // Encodes SEP; and where a state asks for it, what the autoencoder makes of SEP takes its place.
  function replaceSep(to, d1, d2, plan) {
    sae.encode(d1, d2, residuals[to + D1], residuals[to + D2], residuals[to + P1], residuals[to + P2]);
    if (plan.scales === null) return;
    const { offsets, values } = tables[1];
    values[offsets[N + 4] + A] = sae.decode(plan.scales, table, row(A));
    residuals.fill(0, to, to + ATOMS);
    residuals[to + R] = 1;
  }

  // Logits of a position's residual, [V].
  function unembed(held, position) {
    const out = new Float64Array(V);
    for (let a = 0; a < ATOMS; a++) {
      const scale = held[position * ATOMS + a];
      const from = row(atomsOf[a]);
      if (scale !== 0) for (let v = 0; v < V; v++) out[v] += scale * table[from + v];
    }
    return out;
  }

  // The arg-max of a residual's logits. Digits and positions mostly have the same scale: then one table
  // holds the sums of their rows.
  const [FROM_P1, FROM_P2, FROM_S, FROM_M1, FROM_M2] = [0, 1, 2, 3, 4].map((i) => row(N + i));
  function says(at) {
    const e1 = residuals[at + D1];
    const e2 = residuals[at + D2];
    const p1 = residuals[at + P1];
    const p2 = residuals[at + P2];
    const s = residuals[at + S];
    const m1 = residuals[at + M1];
    const m2 = residuals[at + M2];
    const r = residuals[at + R];
    if (r !== 0) return argMaxOfThree(table, row(A), r, FROM_M1, m1, FROM_M2, m2, V); // SEP is all in this atom
    const from1 = atomsOf[D1] * V;
    const from2 = atomsOf[D2] * V;
    if (e1 === p1 && e2 === p2) {
      return argMaxOfFive(fused[0], from1, e1, fused[1], from2, e2, table, FROM_S, s, FROM_M1, m1, FROM_M2, m2, V);
    }
    return argMaxOfSeven(
      table, from1, e1, table, from2, e2, table, FROM_S, s, FROM_M1, m1, FROM_M2, m2, FROM_P1, p1, FROM_P2, p2, V,
    );
  }

  // What comes out for a list, see OUTCOMES.
  function judge(d1, d2, o1, o2) {
    if (o1 === d1 && o2 === d2) return 0;
    if (o1 === d2 && o2 === d1) return 1;
    return o1 === d1 || o2 === d2 ? 2 : 3;
  }

  return {
    N,
    L,
    V,
    MASK,
    SEP,
    edges,
    choices,
    alpha,
    sae,

    // Everything that is drawn of one list.
    compute(state) {
      const [d1, d2] = state.list;
      const layers = [];
      forward(d1, d2, prepare(state), layers);
      const byEdge = {};
      const rows = {};
      reads.forEach(({ labels, name }, r) => {
        labels.forEach((label, i) => (byEdge[label] = weights[2 * r + i]));
        rows[name] = labels.map((_, i) => before[2 * r + i]);
      });
      const logitsOf = (layer) => [3, 4].map((position) => unembed(layers[layer], position));
      const largest = (of) => of.indexOf(Math.max(...of));
      const logits = logitsOf(L);
      const predictions = logits.map(largest);
      return {
        weights: byEdge,
        rows, // before cuts
        places: Array.from(places), // what SEP reads of P_1 and P_2 in layer 0, after cuts
        placesBefore: Array.from(placesBefore),
        residuals: layers.map((held) =>
          POSITIONS.map((_, i) => Array.from(held.subarray(i * ATOMS, (i + 1) * ATOMS))),
        ),
        // What o1 and o2 would say if the model ended after an earlier layer, from the first on.
        lens: layers.slice(1, -1).map((_, i) => logitsOf(i + 1).map(largest)),
        logits: logits.map((of) => Array.from(of)),
        predictions,
        outcome: judge(d1, d2, ...predictions),
        latents: sae ? sae.latents() : [], // that are on, before they are scaled
      };
    },

    // The scales of a latent at which the list comes out reversed, as intervals; all else as the state says.
    reversals(state, index) {
      const plan = prepare({ ...state, latents: { ...state.latents, [index]: 0 } });
      forward(...state.list, plan);
      const [o1, o2] = ["L1 o1", "L1 o2"].map((name) => reads.findIndex((read) => read.name === name));
      const keep = plan.keep[o2].map(Number);
      const isFixed = plan.patterns[o2] !== null || keep[0] + keep[1] === 0 || (plan.renormalize && keep[0] + keep[1] === 1);
      const { offsets, values } = tables[1];
      return reversalsOf(state.list, {
        still: table.subarray(row(A), WIDE * V),
        ...sae.direction(index),
        starts: [FROM_M1, FROM_M2].map((from) => table.subarray(from, from + V)),
        ofO1: weights[2 * o1],
        ofO2: isFixed ? weights.subarray(2 * o2, 2 * o2 + 2) : null,
        keep,
        gap: values[offsets[N + 4] + A] - values[offsets[N + 4] + N + 3],
      });
    },

    // What comes out for every list, by d1 * N + d2.
    outcomes(state) {
      const plan = prepare(state);
      const found = new Uint8Array(N * N);
      for (let d1 = 0; d1 < N; d1++) {
        for (let d2 = 0; d2 < N; d2++) {
          forward(d1, d2, plan);
          found[d1 * N + d2] = judge(d1, d2, says(3 * ATOMS), says(4 * ATOMS));
        }
      }
      return found;
    },
  };
}
