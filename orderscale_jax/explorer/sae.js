// A sparse autoencoder as tables, and at which scales of a latent a list comes out reversed.
const LOWEST_SCALE = 0;
const LARGEST_SCALE = 10; // of a latent
const HALVINGS = 60; // of an interval: it ends at the last bit

// encoder [N + 3, F], thresholds [F], decoder [F + 1, V], keys [F + 1]; n_kept: null where the threshold alone says
// what is on; is_binary: what is on is 1.
function makeSae({ n_digits: N, thresholds, n_kept, is_binary, encoder, decoder, keys, ...about }) {
  const F = thresholds.length;
  const V = N + 2;
  const [ofFirst, ofSecond, ofSep] = [0, 1, 2].map((i) => encoder.subarray((N + i) * F, (N + i + 1) * F));
  const on = new Int32Array(F); // the latents that are on in the list that was encoded last, `count` of them
  const values = new Float64Array(F);
  let count = 0;

  // Of SEP with these scales of its digits' vectors and of its positions'.
  function encode(d1, d2, e1, e2, p1, p2) {
    const first = d1 * F;
    const second = d2 * F;
    count = 0;
    for (let f = 0; f < F; f++) {
      const value = e1 * encoder[first + f] + e2 * encoder[second + f] + p1 * ofFirst[f] + p2 * ofSecond[f] + ofSep[f];
      if (value > thresholds[f]) {
        on[count] = f;
        values[count++] = is_binary ? 1 : value;
      }
    }
    if (n_kept !== null && count > n_kept) keepLargest();
  }
  function keepLargest() {
    const least = values.slice(0, count).sort().at(-n_kept);
    let kept = 0;
    for (let i = 0; i < count; i++) {
      if (values[i] < least) continue;
      on[kept] = on[i];
      values[kept++] = values[i];
    }
    count = kept;
  }

  return {
    ...about,
    F,
    encode,
    latents: () => Array.from({ length: count }, (_, i) => ({ index: on[i], value: values[i] })),
    // The logits of what the latents with their scales say that SEP is into `target`; returns its key.
    decode(scales, target, at) {
      let key = keys[F];
      for (let v = 0; v < V; v++) target[at + v] = decoder[F * V + v];
      for (let i = 0; i < count; i++) {
        const value = values[i] * scales[on[i]];
        const from = on[i] * V;
        key += value * keys[on[i]];
        for (let v = 0; v < V; v++) target[at + v] += value * decoder[from + v];
      }
      return key;
    },
    // What a latent, as it is in the list, adds to the logits and to the key for each unit of its scale.
    direction(index) {
      const at = on.subarray(0, count).indexOf(index);
      const value = at < 0 ? 0 : values[at];
      const logits = Float64Array.from(decoder.subarray(index * V, (index + 1) * V), (x) => value * x);
      return { moving: logits, movingKey: value * keys[index] };
    },
  };
}

const sigmoid = (z) => 1 / (1 + Math.exp(-z));

// An output's logits at a scale s are, up to the same number for all, g (still + s moving) + (1 - g) other, with
// g = sigmoid(z0 + s z1) and still, moving, other [V]. So of two tokens' gap the sign is that of a + b s + c exp(-z),
// which bends one way only: it crosses zero at most twice, once before its turn and once after it. Returns the parts
// of [low, high] in which the output does not say `target`.
function partsWithout({ still, moving, other, z0, z1 }, target, low, high) {
  const parts = [];
  for (let v = 0; v < still.length; v++) {
    if (v === target) continue;
    const [a, b, c] = [still[target] - still[v], moving[target] - moving[v], other[target] - other[v]];
    const isBad = (s) => {
      const gate = sigmoid(z0 + s * z1);
      return gate * (a + b * s) + (1 - gate) * c <= 0;
    };
    const ratio = b / (c * z1);
    const turn = z1 !== 0 && ratio > 0 ? (-Math.log(ratio) - z0) / z1 : NaN;
    const bounds = turn > low && turn < high ? [low, turn, high] : [low, high];
    for (let i = 1; i < bounds.length; i++) {
      const [from, to] = [bounds[i - 1], bounds[i]];
      const [first, last] = [isBad(from), isBad(to)];
      if (first && last) parts.push([from, to]);
      if (first === last) continue;
      let [left, right] = [from, to];
      for (let round = 0; round < HALVINGS; round++) {
        const middle = (left + right) / 2;
        if (isBad(middle) === first) left = middle;
        else right = middle;
      }
      parts.push(first ? [from, (left + right) / 2] : [(left + right) / 2, to]);
    }
  }
  return parts;
}

// What is left of [low, high] without these parts, ascending.
function without(parts, low, high) {
  const left = [];
  let reached = low;
  for (const [from, to] of [...parts].sort((a, b) => a[0] - b[0])) {
    if (from > reached) left.push([reached, from]);
    reached = Math.max(reached, to);
  }
  if (reached < high) left.push([reached, high]);
  return left;
}

// The intervals of scales s at which o1 says d2 and o2 says d1. still, moving [V]: logits of what stands for SEP at
// s = 0, and what a unit of s adds; starts: of o1 and o2 before they read; ofO1: o1's weight of SEP; ofO2: o2's weights
// of SEP and o1 where they are fixed, else null; then keep says which of the two it may read, and gap and movingKey are
// its score of SEP less that of o1 at s = 0, and what a unit of s adds.
function reversalsOf([d1, d2], { still, moving, movingKey, starts, ofO1, ofO2, keep, gap }) {
  if (d1 === d2) return [];
  const sum = (own, a, sep, b) => Float64Array.from(own, (x, v) => x + a * sep[v] + b * starts[0][v]);
  const times = (a) => Float64Array.from(moving, (x) => a * x);
  const line = (own, a, b) => ({ still: sum(own, a, still, b), moving: times(a), other: own, z0: Infinity, z1: 0 });
  const bend = (own, a, b) => ({ still: sum(own, a, still, 0), moving: times(a), other: sum(own, 0, still, b), z0: gap, z1: movingKey });
  const outputs = [line(starts[0], ofO1, 0), ofO2 ? line(starts[1], ...ofO2) : bend(starts[1], ...keep)];
  const parts = outputs.flatMap((output, i) => partsWithout(output, [d2, d1][i], LOWEST_SCALE, LARGEST_SCALE));
  return without(parts, LOWEST_SCALE, LARGEST_SCALE);
}
