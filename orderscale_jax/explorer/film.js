// The frames of a film: logits rounded to 12 bits in units of their row.
function makeFilm({ n_digits: N, n_layers, edges, steps, accuracy, changed, packed, unit, scores }) {
  const [A, V] = [N + 5, N + 2];
  const [pairs, units] = [bytes(packed), floats(unit)];
  const layers = scores.map(({ rows, values }) => ({ rows, values: floats(values) }));
  return {
    steps,
    accuracy,
    changed,
    frame(i) {
      const logits = new Float64Array(A * V);
      for (let j = 0; j < A * V; j++) {
        const at = i * A * V + j;
        const from = 3 * (at >> 1);
        const code = at & 1 ? (pairs[from + 1] >> 4) | (pairs[from + 2] << 4) : pairs[from] | ((pairs[from + 1] & 15) << 8);
        logits[j] = (code - 2048) * units[i * A + Math.floor(j / V)];
      }
      const part = ({ rows, values }) => {
        const size = values.length / steps.length;
        return { rows, values: values.subarray(i * size, (i + 1) * size) };
      };
      return makeModel({ n_digits: N, n_layers, edges, logits, scores: layers.map(part) });
    },
  };
}
