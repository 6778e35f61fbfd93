// The film: a slider over the steps of the training, its curve, and what plays it.
const FRAME_SECONDS = 0.25;
const TICKS = [0, 1000, 5000, 6000, 10000]; // steps that are named below the curve

function makePlayer(el, library, show) {
  let timer = null;
  const at = ({ model, step }) => (step === null ? library.steps(model).length : library.steps(model).indexOf(step));

  function stop() {
    clearInterval(timer);
    timer = null;
    el.filmPlay.textContent = "▶ Play the training";
  }
  function play(state) {
    const steps = library.steps(state.model);
    let next = at(state) % (steps.length + (state.step === null ? 0 : 1));
    const tick = () => {
      if (next >= steps.length) stop();
      show(atStep(steps[next++] ?? null), "play");
    };
    timer = setInterval(tick, 1000 * FRAME_SECONDS);
    el.filmPlay.textContent = "❚❚ Pause";
    tick();
  }

  return {
    isPlaying: () => timer !== null,
    play,
    stop,
    draw({ state, outcomes, counts }) {
      const steps = library.steps(state.model);
      el.film.hidden = !steps.length;
      if (!steps.length) return;
      const { accuracy, changed } = library.film;
      const place = (i) => (100 * i) / steps.length;
      Object.assign(el.filmStep, { max: steps.length, value: at(state) });
      const [right, , one] = counts.validation;
      const share = (2 * right + one) / (2 * counts.validation.reduce((a, b) => a + b, 0));
      const which = state.step === null ? "trained" : `step ${number(state.step)}`;
      const text = `${which}: ${percent(share)} of the validation outputs right`;
      el.filmStep.setAttribute("aria-valuetext", text);
      el.filmText.textContent = isChanged(state) ? `${text}, with the changes` : text;
      el.filmNote.textContent =
        state.step === null
          ? "Most steps of the film are of the transition."
          : `Rounded for the page, which changes an output of ${number(changed[at(state)])} of the ${number(outcomes.length)} lists.`;
      const points = accuracy.map((y, i) => `${2 * place(i)} ${(40 - 40 * y).toFixed(1)}`);
      el.filmCurve.setAttribute("d", `M${points.join("L")}`);
      el.filmHere.setAttribute("d", `M${2 * place(at(state))} 0V40`);
      el.filmTicks.replaceChildren(
        ...TICKS.filter((step) => steps.includes(step)).map((step) => {
          const tick = element("span", "", number(step));
          tick.style.left = `${place(steps.indexOf(step))}%`;
          return tick;
        }),
      );
    },
  };
}
