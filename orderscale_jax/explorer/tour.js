// Five steps from a list to what carries its order. Every number in them is counted on the page.
const NEAR = 0.02; // alphas no further apart than this count as nearly equal,
const FAR = 0.2; // and from here on as far apart

function makeTour(show) {
  const found = new Map(); // by model: what the steps tell

  // A list that shows what the steps say, and the counts of all; null where no list of the model shows it.
  function study(model) {
    if (found.has(model)) return found.get(model);
    const { N } = model;
    const under = (changes) => model.outcomes({ ...UNTOUCHED, ...changes });
    const [intact, alphas, places, digits, even] = [
      under({}),
      under({ digit_weights: "swap", position_weights: "swap" }),
      under({ position_weights: "swap" }),
      under({ digit_weights: "swap" }),
      under({ digit_weights: "even" }),
    ];
    const gap = (d1, d2) => Math.abs(2 * model.alpha(d1, d2) - 1);
    const isSame = (d1, d2) => model.alpha(d1, d2) > 0.5 !== model.alpha(d2, d1) > 0.5;
    let list = null;
    let wrong = null;
    const counts = { same: 0, pairs: 0, near: [0, 0], far: [0, 0] };
    for (let d1 = 0; d1 < N; d1++) {
      for (let d2 = 0; d2 < N; d2++) {
        const [at, turned] = [d1 * N + d2, d2 * N + d1];
        const apart = gap(d1, d2);
        const bin = apart < NEAR ? counts.near : apart > FAR ? counts.far : null;
        if (bin && d1 !== d2) {
          bin[1]++;
          if (intact[at] === 0) bin[0]++;
        }
        if (d1 === d2) continue;
        if (d1 < d2) {
          counts.pairs++;
          if (isSame(d1, d2)) counts.same++;
        }
        const shows = intact[at] === 0 && intact[turned] === 0 && alphas[at] > 1 && places[at] === 1;
        const middling = apart > 0.15 && apart < 0.45 && gap(d2, d1) > 0.15;
        if (!list && shows && middling && isSame(d1, d2) && d1 > N / 4) list = [d1, d2];
        // The wrong list with the nearest weights, one that comes out reversed if there is any.
        const closeness = (intact[at] === 1 ? 0 : 1) + apart;
        if (intact[at] !== 0 && (!wrong || closeness < wrong.closeness)) wrong = { list: [d1, d2], closeness };
      }
    }
    const share = (outcomes, of) => {
      const count = countOutcomes(outcomes, N, null).different;
      return count[of] / (N * N - N);
    };
    const told = list && wrong && {
      list,
      wrong: wrong.list,
      same: counts.same / counts.pairs,
      alphas: share(alphas, 1),
      places: share(places, 1),
      digits: share(digits, 1),
      intact: share(intact, 0),
      even: share(even, 0),
      near: counts.near[0] / counts.near[1],
      far: counts.far[0] / counts.far[1],
    };
    found.set(model, told);
    return told;
  }

  const saying = (model, state) => model.compute({ ...UNTOUCHED, ...state }).predictions.map((x) => tokenName(model, x));

  const STEPS = [
    {
      title: "1. Two digits go through one token",
      state: ({ list }) => ({ list }),
      text(told, model) {
        const [a, b] = told.list;
        const first = model.alpha(a, b);
        return [
          `The outputs cannot see the digits, only SEP. SEP reads d1 = ${a} with weight α₁ = ${weightText(first)} and ` +
            `d2 = ${b} with α₂ = ${weightText(1 - first)}, and out come ${a} and ${b}, in order.`,
          "So SEP holds the order, too. The paper says how: by which of the two weights is larger.",
        ];
      },
    },
    {
      title: "2. Reverse the list",
      state: ({ list }) => ({ list: [...list].reverse() }),
      text(told, model) {
        const [a, b] = told.list;
        const [before, after] = [model.alpha(a, b), 1 - model.alpha(b, a)];
        const which = before > 0.5 ? a : b;
        const [was, is] = before > 0.5 ? [before, after] : [1 - before, 1 - after];
        return [
          `Now ${b} stands first. The weight of ${which} was ${weightText(was)} and is ${weightText(is)}: still the larger one.`,
          `So it is for ${percent(told.same)} of the pairs of digits. Which weight is larger says mostly which digits ` +
            "these are, not which of them comes first.",
        ];
      },
    },
    {
      title: "3. Exchange α₁ and α₂",
      state: ({ list }) => ({ list, digit_weights: "swap", position_weights: "swap" }),
      text(told, model) {
        const [o1, o2] = saying(model, { list: told.list, digit_weights: "swap", position_weights: "swap" });
        return [
          `The first list again. If the larger weight marked the first digit, exchanging the two would turn the list round. ` +
            `o1 says ${o1}, o2 says ${o2}: it does not.`,
          `Of all lists of two different digits, ${percent(told.alphas)} come out reversed (orange on the map).`,
        ];
      },
    },
    {
      title: "4. Exchange the weights of the positions alone",
      state: ({ list }) => ({ list, position_weights: "swap" }),
      text(told, model) {
        const [o1, o2] = saying(model, { list: told.list, position_weights: "swap" });
        return [
          "Each α weighs two vectors at once: that of a digit, E[d], and that of its position, P₁ or P₂. " +
            `Leave the digits as they are and exchange what SEP holds of P₁ and P₂. o1 says ${o1}, o2 says ${o2}: reversed.`,
          `So it is for ${percent(told.places)} of the lists; exchanging the digits' weights alone reverses ${percent(told.digits)}.`,
        ];
      },
    },
    {
      title: "5. Where it breaks",
      state: ({ wrong }) => ({ list: wrong }),
      text(told, model) {
        const [a, b] = told.wrong;
        const first = model.alpha(a, b);
        return [
          `Here α₁ = ${weightText(first)} and α₂ = ${weightText(1 - first)}: SEP holds nearly as much of P₁ as of P₂, and the list ` +
            `comes out as ${saying(model, { list: told.wrong }).join(", ")}. With weights less than ${NEAR} apart ${percent(told.near)} of the lists are right, with more ` +
            `than ${FAR} apart ${percent(told.far)}.`,
          `The digits' weights count, too: weigh E[d1] and E[d2] equally, and ${percent(told.even)} of the lists are right ` +
            `(${percent(told.intact)} before). How the outputs read the one against the other is not known.`,
        ];
      },
    },
  ];

  return {
    steps: STEPS.length,
    why: (model) => (model.L === 2 ? null : "The tour is about models of two layers."),
    told: study,
    state: (step, model) => ({ ...structuredClone(UNTOUCHED), ...STEPS[step].state(study(model)) }),
    title: (step) => STEPS[step].title,
    text: (step, model) => STEPS[step].text(study(model), model),
  };
}
