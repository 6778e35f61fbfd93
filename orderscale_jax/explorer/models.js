const saeTables = ({ encoder, thresholds, decoder, keys }) => ({
  encoder: floats(encoder),
  thresholds: floats(thresholds),
  decoder: floats(decoder),
  keys: floats(keys),
});

// The models of the page, made when they are first asked for. A state names one, and perhaps a step of its film.
function makeLibrary(data) {
  const entries = Object.fromEntries(data.models.map((entry) => [entry.name, entry]));
  const filmed = data.film && entries[data.film.model];
  const film = filmed && makeFilm({ ...filmed, ...data.film });
  const made = new Map();
  const bits = (base64) => {
    const of = bytes(base64);
    return Uint8Array.from({ length: 8 * of.length }, (_, i) => (of[i >> 3] >> (i & 7)) & 1);
  };
  const once = (key, make) => {
    if (!made.has(key)) made.set(key, make());
    return made.get(key);
  };
  const whole = ({ logits, scores, sae, ...entry }) =>
    makeModel({
      ...entry,
      logits: floats(logits),
      scores: scores.map((x) => ({ ...x, values: floats(x.values) })),
      sae: sae && makeSae({ ...sae, ...saeTables(sae), n_digits: entry.n_digits }),
    });
  const library = {
    names: Object.keys(entries),
    // Where the model is loaded from in Python; null if it is shipped.
    checkpoint: (name) => entries[name].checkpoint,
    about: (name) => entries[name].about,
    // The same of its autoencoder.
    saeCheckpoint: (name) => entries[name].sae?.checkpoint,
    // Those of which there is one.
    withLatents: Object.keys(entries).filter((name) => entries[name].sae),
    steps: (name) => (film && name === data.film.model ? film.steps : []),
    film,
    model: ({ model, step }) =>
      once(`${model} ${step}`, () => (step === null ? whole(entries[model]) : film.frame(film.steps.indexOf(step)))),
    validation: (name) => once(`lists ${name}`, () => (entries[name].validation ? bits(entries[name].validation) : null)),
    circuits: (name, mode) =>
      once(`circuits ${name} ${mode}`, () => {
        const of = entries[name].circuits?.[mode];
        if (!of) return null;
        const buffer = bytes(of.right).buffer;
        return { ...of, right: of.outputs > 65535 ? new Uint32Array(buffer) : new Uint16Array(buffer) };
      }),
    trained: (name) => library.model({ model: name, step: null }),
  };
  return library;
}
