// The two-layer model in closed form: attention weights times rows of small tables.
// Rows and columns are named as in the paper; D1, D2, S, M1, M2 are the source vectors at the
// positions d1, d2, SEP, o1, o2 before any layer.
function makeCircuit({ n_digits: nDigits, tables }) {
  const vocabulary = nDigits + 2;
  const MASK = nDigits;
  const SEP = nDigits + 1;
  const SMALLEST_ROW_SUM = 1e-12; // of a cut row before it is rescaled, as in the library
  // The attention rows that can reach an output: the edges of each, by the library's labels.
  const ROWS = {
    sep: ["L0 SEP<-d1", "L0 SEP<-d2"],
    o1: ["L1 o1<-SEP"],
    o2: ["L1 o2<-SEP", "L1 o2<-o1"],
  };
  const EDGES = Object.values(ROWS).flat();

  const embeddingLogits = floats(tables.embedding_logits);
  const positionLogits = floats(tables.position_logits);
  const sepScores = floats(tables.sep_scores);
  const o2DigitScores = floats(tables.o2_digit_scores);
  const o2Scores = floats(tables.o2_scores);

  function floats(base64) {
    return new Float32Array(Uint8Array.from(atob(base64), (char) => char.charCodeAt(0)).buffer);
  }

  function softmax(scores) {
    const largest = Math.max(...scores);
    const weights = scores.map((score) => Math.exp(score - largest));
    const sum = weights.reduce((a, b) => a + b, 0);
    return weights.map((weight) => weight / sum);
  }

  function argMax(values) {
    let best = 0;
    for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
    return best;
  }

  // One attention row: the model's weights or the given ones, then the cuts.
  function attend(row, computed, given, state) {
    const weights = given ?? computed;
    const kept = weights.map((weight, i) => (state.cuts.includes(ROWS[row][i]) ? 0 : weight));
    if (state.mode === "zero") return kept;
    const left = kept.reduce((a, b) => a + b, 0);
    const lost = weights.reduce((a, b) => a + b, 0) - left;
    return kept.map((weight) => weight * (1 + lost / Math.max(left, SMALLEST_ROW_SUM)));
  }

  // Logits of a residual given as [scale, token, position] terms.
  function unembed(terms) {
    const logits = new Float64Array(vocabulary);
    for (const [scale, token, position] of terms) {
      if (scale === 0) continue;
      const fromToken = token * vocabulary;
      const fromPosition = position * vocabulary;
      for (let v = 0; v < vocabulary; v++) {
        logits[v] += scale * (embeddingLogits[fromToken + v] + positionLogits[fromPosition + v]);
      }
    }
    return logits;
  }

  // A digit from what a reader typed; throws a sentence that can be shown.
  function parseDigit(text, name) {
    const trimmed = String(text).trim();
    if (!/^\d+$/.test(trimmed) || Number(trimmed) >= nDigits) {
      const got = trimmed === "" ? "it is empty" : `“${trimmed}” is not`;
      throw new RangeError(`${name} must be a whole number from 0 to ${nDigits - 1}; ${got}.`);
    }
    return Number(trimmed);
  }

  function check(given) {
    const state = { alpha: null, beta: null, cuts: [], mode: "renormalize", ...given };
    state.digits = ["d1", "d2"].map((name, i) => parseDigit(state.digits?.[i] ?? "", name));
    for (const edge of state.cuts) {
      if (!EDGES.includes(edge)) {
        throw new RangeError(`Edge “${edge}” cannot reach an output; the edges that can: ${EDGES.join(", ")}.`);
      }
    }
    if (!["renormalize", "zero"].includes(state.mode)) {
      throw new RangeError(`The mode of a cut is “renormalize” or “zero”, not “${state.mode}”.`);
    }
    return state;
  }

  // state: digits [d1, d2]; alpha null (the model's), "swap" (the model's, exchanged) or two weights;
  // beta null or two weights; cuts, a list of edge labels; mode "renormalize" or "zero".
  function compute(given) {
    const state = check(given);
    const [d1, d2] = state.digits;
    const own = softmax([sepScores[d1], sepScores[nDigits + d2]]);
    const chosen = state.alpha === "swap" ? [own[1], own[0]] : state.alpha;
    const alpha = attend("sep", own, chosen, state);

    // o2's score for SEP is linear in what SEP has read.
    const scoreOfSep = o2Scores[0] + alpha[0] * o2DigitScores[d1] + alpha[1] * o2DigitScores[nDigits + d2];
    const ownBeta = softmax([scoreOfSep, o2Scores[1]]);
    const beta = attend("o2", ownBeta, state.beta, state);
    const [gamma] = attend("o1", [1], null, state);

    const sep = [[alpha[0], d1, 0], [alpha[1], d2, 1], [1, SEP, 2]];
    const scaled = (by) => sep.map(([scale, token, position]) => [by * scale, token, position]);
    const logits = [
      unembed([[1, MASK, 3], ...scaled(gamma)]),
      unembed([[1, MASK, 4], ...scaled(beta[0]), [beta[1], MASK, 3]]),
    ];
    return {
      alpha,
      alphaBeforeCuts: chosen ?? own,
      beta,
      betaBeforeCuts: state.beta ?? ownBeta,
      gamma,
      // At what scale each digit's vector enters o1 and o2.
      scales: [gamma, beta[0]].map((weight) => alpha.map((share) => weight * share)),
      logits: logits.map((row) => Array.from(row)),
      predictions: logits.map(argMax),
    };
  }

  return { nDigits, vocabulary, MASK, SEP, EDGES, softmax, parseDigit, compute };
}
