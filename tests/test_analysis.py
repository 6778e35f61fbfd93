"""The analyses say what they claim, on small models with random weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from orderscale_jax import analysis, formatting, load_pretrained
from orderscale_jax.analysis import accuracy, circuit, difference, exchange, observation, separability
from orderscale_jax.analysis.accuracy import accuracy_on
from orderscale_jax.errors import UserError
from orderscale_jax.model import Interventions, ListTransformer, ModelConfig, keep_weights, metrics
from orderscale_jax.printing import Printable

TWO_LAYERS = ModelConfig(n_layers=2, d_model=8, list_len=2, n_digits=5)
VARIANT = ModelConfig(
    n_layers=2,
    n_heads=2,
    d_model=8,
    list_len=3,
    n_digits=4,
    layer_norm=True,
    bias=True,
    learn_wo=True,
)


def make_model(config, attention_scale=0.3):
    """Random weights; attention differs from list to list, unless its scale is 0."""
    model = nnx.eval_shape(lambda: ListTransformer(config, rngs=nnx.Rngs(0)))  # compiles nothing
    generator = np.random.RandomState(1)

    def draw(path, array):
        scale = attention_scale if "_Q" in jax.tree_util.keystr(path) else 1.0
        weight = generator.randn(*array.shape) * scale * 0.8
        return jnp.asarray(weight, jnp.float32)

    nnx.update(model, jax.tree_util.tree_map_with_path(draw, nnx.state(model)))
    return model


def reference(observed, edges=(), head=None, renormalize=True):
    """The model's own logits and trace, always with the same arguments: compiled once a model."""
    config, (L, _, H, T, _) = observed.model.config, observed.patterns.shape
    keep = np.broadcast_to(keep_weights(config, edges, head=head), (L, H, T, T))
    interventions = Interventions(keep=jnp.asarray(keep), renormalize=jnp.asarray(renormalize))
    return _reference(*nnx.split(observed.model), jnp.asarray(observed.lists), interventions)


@functools.partial(jax.jit, static_argnums=0)
def _reference(graphdef, state, lists, interventions):
    return nnx.merge(graphdef, state)(lists, interventions, trace=True)


@pytest.fixture(scope="module")
def good():
    """A model that gets some lists right and some half right, some lists, and where it is right on them."""
    model, _ = load_pretrained("two_layer")
    lists = np.random.default_rng(0).integers(0, 100, (57, 2))
    right = np.asarray(jax.jit(lambda: model(lists))()).argmax(-1) == lists
    assert 0 < right.all(1).mean() < right.mean() < 1
    return model, lists, right


@pytest.mark.parametrize("at_once", [8, 56, 57, 1000])
def test_accuracy_counts_every_list_once(good, at_once, monkeypatch):
    monkeypatch.setattr(accuracy, "LISTS_AT_ONCE", at_once)
    model, lists, right = good
    found = accuracy_on(model, lists)
    assert found.n_lists == 57 and "57" in found.table()
    assert found.accuracy == pytest.approx(right.mean(), abs=1e-12)
    assert found.sequence_accuracy == pytest.approx(right.all(1).mean(), abs=1e-12)


def test_there_is_no_accuracy_on_no_lists():
    with pytest.raises(UserError, match="the accuracy on no lists does not exist"):
        accuracy_on(make_model(TWO_LAYERS), np.zeros((0, 2), int))
    with pytest.raises(UserError, match=r"lists must have shape \[B, 2\]"):
        accuracy_on(make_model(TWO_LAYERS), np.zeros((3, 3), int))


def all_lists(config):
    return np.indices((config.n_digits,) * config.list_len, np.int32).reshape(config.list_len, -1).T


def observe(config, **options):
    return analysis.observe(make_model(config, **options), all_lists(config))


@pytest.fixture(scope="module")
def two_layers():
    return observe(TWO_LAYERS)


@pytest.fixture(scope="module")
def variant():
    return observe(VARIANT)


def test_observation_is_the_models_own_pass(variant):
    logits, trace = reference(variant)
    np.testing.assert_array_equal(variant.predictions, logits.argmax(-1))
    np.testing.assert_array_equal(variant.correct, logits.argmax(-1) == variant.lists)
    np.testing.assert_allclose(variant.patterns, trace.patterns, atol=1e-6)
    np.testing.assert_allclose(variant.sep_scores, trace.scores[:, :, :, 3, :3], atol=1e-5)
    np.testing.assert_allclose(variant.model.logits(variant.residuals), logits, atol=1e-5)
    assert variant.sequence_accuracy <= variant.per_position_accuracy.min()


def test_observing_in_chunks_changes_nothing(two_layers, monkeypatch):
    monkeypatch.setattr(observation, "CHUNK", 7)  # 25 lists: three chunks and a part
    chunked = analysis.observe(two_layers.model, two_layers.lists)
    for field in ("predictions", "correct", "loss", "patterns", "sep_scores", "residuals", "lens"):
        np.testing.assert_allclose(getattr(chunked, field), getattr(two_layers, field), atol=1e-5)
    assert analysis.closed_form(chunked).accuracy == analysis.closed_form(two_layers).accuracy
    ours, theirs = (analysis.decompose_difference(x) for x in (chunked, two_layers))
    np.testing.assert_allclose(ours.final, theirs.final, rtol=1e-5)
    ours, theirs = (analysis.exchange_in_model(x) for x in (chunked, two_layers))
    assert ours == theirs


def test_observe_refuses_lists_that_do_not_fit():
    model = make_model(TWO_LAYERS)
    for lists, message in (
        (np.zeros((0, 2), int), "at least one list"),
        (np.zeros((1, 3), int), r"shape \[B, 2\]"),
        (np.array([[0, 5]]), "digits must lie in 0 … 4"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.observe(model, lists)


@pytest.mark.parametrize("mode", ["renormalize", "zero"])
@pytest.mark.parametrize("head", [None, 1])
def test_joint_ablation_is_the_cut_model(variant, mode, head):
    edges = [(0, 3, 1), (1, 5, 3), (1, 6, 4)]
    joint = analysis.ablate_jointly(variant, edges, mode, head)
    logits, _ = reference(variant, joint.edges, head, mode == "renormalize")
    np.testing.assert_array_equal(joint.outcome.predictions, logits.argmax(-1))
    assert joint.outcome.loss == pytest.approx(float(metrics.cross_entropy(logits, variant.lists)), rel=1e-5)
    assert joint.outcome.loss != pytest.approx(variant.loss, rel=1e-4)
    nothing = analysis.ablate_jointly(variant, [], mode, head)
    assert nothing.outcome.loss == pytest.approx(variant.loss, rel=1e-5)


def test_edges_can_be_given_by_name(variant):
    edges, names = [(0, 3, 1), (1, 6, 4)], ["L0 SEP<-d2", "L1 o3<-o1"]
    of_edges, of_names = analysis.ablate_jointly(variant, edges), analysis.ablate_jointly(variant, names)
    assert of_names.edges == of_edges.edges == tuple(edges)
    assert of_names.outcome.loss == of_edges.outcome.loss
    with pytest.raises(ValueError, match="edge 'L0 o3<-o1' does not exist"):
        analysis.ablate_jointly(variant, ["L0 o3<-o1"])


def test_joint_ablation_refuses_what_does_not_exist(two_layers):
    with pytest.raises(ValueError, match="does not exist"):
        analysis.ablate_jointly(two_layers, [(0, 4, 3)])
    with pytest.raises(ValueError, match="head 1 does not exist"):
        analysis.ablate_jointly(two_layers, [(1, 4, 3)], head=1)
    with pytest.raises(ValueError, match="mode must be one of renormalize, zero"):
        analysis.ablate_jointly(two_layers, [(1, 4, 3)], mode="both")


def test_output_errors_counts():
    lists = np.array([[1, 2], [3, 4], [0, 1], [2, 3], [4, 4]])
    predictions = np.array([[1, 1], [3, 4], [2, 2], [2, 0], [4, 2]])
    outcome = analysis.Outcome(predictions, predictions == lists, 0.0)
    o1, o2 = analysis.output_errors(lists, outcome)
    assert (o1.n_lists, o1.n_wrong, o2.n_wrong) == (5, 1, 4)
    np.testing.assert_allclose(o2.equals_prediction, [0.5, 1])  # [1, 1] and [2, 2]
    np.testing.assert_allclose(o2.equals_digit, [0.25, 0])  # 1 in [1, 2]
    np.testing.assert_allclose(o2.others_correct, [0.75, 0])  # all but [0, 1]
    assert o2.frequent == ((2, 2), (0, 1), (1, 1))
    np.testing.assert_array_equal(o2.example_predictions, predictions[[0, 2, 3, 4]])
    perfect = analysis.Outcome(lists, np.ones_like(lists, bool), 0.0)
    assert all(np.isnan(errors.equals_digit).all() for errors in analysis.output_errors(lists, perfect))

    wrong = analysis.list_errors(lists, outcome)
    np.testing.assert_array_equal(wrong.lists, lists[[0, 2, 3, 4]])
    np.testing.assert_array_equal(wrong.predictions, predictions[[0, 2, 3, 4]])
    assert wrong.n_lists == 5


def test_mean_pattern_of_list_independent_attention_changes_nothing(two_layers):
    same = observe(TWO_LAYERS, attention_scale=0.0)
    statistics = analysis.attention_statistics(same)
    assert statistics.mean_pattern_accuracy == same.accuracy
    np.testing.assert_allclose(statistics.mean_pattern[0, 0, 2, :2], 0.5, atol=1e-6)
    outcome = analysis.intervene(same, patterns=statistics.mean_pattern[:, None])
    assert outcome.loss == pytest.approx(same.loss, rel=1e-5)

    statistics = analysis.attention_statistics(two_layers)
    mean = statistics.mean_pattern
    outcome = analysis.intervene(two_layers, patterns=mean[:, None])
    assert statistics.mean_pattern_accuracy == outcome.accuracy != two_layers.accuracy
    np.testing.assert_allclose(mean[:, 0], two_layers.patterns[:, :, 0].mean(1), atol=1e-6)


def test_alpha_and_beta_are_whole_pattern_rows(two_layers, variant):
    for observed in (two_layers, variant):
        statistics = analysis.attention_statistics(observed)
        for read in (statistics.alpha, statistics.beta):
            np.testing.assert_allclose(read.sum(-1), 1, atol=1e-5)
            assert read.std(0).max() > 1e-3
    np.testing.assert_array_equal(statistics.beta, variant.patterns[1, :, :, 6, 3:6])


def test_sep_attention_gaps(variant):
    scores = np.zeros_like(variant.sep_scores)
    correct = np.zeros_like(variant.correct)
    correct[:10] = True
    scores[0, :10, 1] = [0.0, 3.0, -1.0]
    scores[0, 10:, 1] = [0.0, 0.5, 0.5]
    result = analysis.sep_attention(dataclasses.replace(variant, sep_scores=scores, correct=correct))
    assert result.pairs == ((0, 1), (0, 2), (1, 2))
    np.testing.assert_allclose(result.gap_correct, [[0, 3], [0, 1], [0, 4]])
    np.testing.assert_allclose(result.gap_incorrect, [[0, 0.5], [0, 0.5], [0, 0]])
    perfect = dataclasses.replace(variant, correct=np.ones_like(variant.correct))
    assert np.isnan(analysis.sep_attention(perfect).gap_incorrect).all()
    with pytest.raises(ValueError, match="layer 2 does not exist"):
        analysis.sep_attention(variant, layer=2)


def test_logit_lens_reads_the_residuals(variant):
    lens = analysis.logit_lens(variant)
    _, trace = reference(variant)
    spelled = (trace.residuals @ variant.model.unembed.W_U[...]).argmax(-1)
    np.testing.assert_array_equal(lens.predicted, spelled.swapaxes(0, 1))
    np.testing.assert_array_equal(lens.agreement[2, 3, 1], (spelled[2, :, 3] == variant.lists[:, 1]).mean())
    assert (lens.tokens[:, 3:] == [5, 4, 4, 4]).all()


def test_logit_lens_input_column_ignores_position():
    model = make_model(TWO_LAYERS)
    orthogonal = np.eye(7, 8, dtype=np.float32)
    model.embed.W_E[...], model.unembed.W_U[...] = jnp.asarray(orthogonal), jnp.asarray(orthogonal.T)
    model.pos_embed.W_pos[...] = jnp.asarray(9 * np.eye(1, 8).repeat(5, 0), jnp.float32)  # all spell 0
    lens = analysis.logit_lens(analysis.observe(model, all_lists(TWO_LAYERS)))
    np.testing.assert_array_equal(lens.embedding, lens.tokens)
    assert (lens.predicted == 0).all()


def test_closed_form_is_the_model(two_layers):
    result = analysis.closed_form(two_layers)
    assert result.max_abs_diff.max() < 1e-4
    np.testing.assert_array_equal(result.predictions, two_layers.predictions)
    assert result.accuracy == two_layers.accuracy


def test_what_the_closed_form_does_not_describe(variant):
    with pytest.raises(ValueError, match="this model has lists of 3 digits, 2 heads") as error:
        analysis.closed_form(variant)
    assert all(word in str(error.value) for word in ("a learned W_O", "LayerNorm", "biases"))
    assert "W_V" not in str(error.value)
    for analyse in (analysis.decompose_difference, analysis.exchange_in_closed_form):
        with pytest.raises(ValueError, match="describe models of two layers"):
            analyse(variant)
    assert analysis.misfits(TWO_LAYERS) == ()
    others = dataclasses.replace(TWO_LAYERS, n_layers=3, learn_wv=True, mlp=True)
    assert analysis.misfits(others) == ("3 layers", "a learned W_V", "an MLP")


def test_terms_sum_to_the_difference(two_layers):
    (symbols,) = circuit.circuits(two_layers)
    total = sum(difference.difference_terms(symbols).values()) @ symbols.U
    np.testing.assert_allclose(total, symbols.o2_logits() - symbols.o1_logits(), atol=1e-6)

    result = analysis.decompose_difference(two_layers)
    of_two = two_layers.lists[:, 0] != two_layers.lists[:, 1]
    differ, logits = (
        two_layers.lists[of_two],
        np.asarray(two_layers.model.logits(two_layers.residuals[of_two])),
    )
    rows = np.arange(len(differ))
    gap = logits[rows, :, differ[:, 1]] - logits[rows, :, differ[:, 0]]
    assert result.n_lists == len(differ) == 20
    np.testing.assert_allclose([result.base, result.final], gap.mean(0), atol=1e-4)
    assert result.o2_accuracy == two_layers.per_position_accuracy[1]


def test_alpha_inside_the_difference_leaves_the_base(two_layers):
    result = analysis.decompose_difference(two_layers)
    (c,) = circuit.circuits(two_layers)
    for alpha_1, alpha_2 in ((0.0, 1.0), (1.0, 0.0)):
        sep = alpha_1 * c.D1 + alpha_2 * c.D2 + c.S - c.Em
        logits = c.o1_logits() + (c.P_o2 - c.beta_s * c.P_o1 - c.beta_o1 * sep) @ c.U
        expected = (logits.argmax(-1) == c.lists[:, 1]).mean()
        assert result.o2_accuracy_with_alpha[alpha_1, alpha_2] == expected
    assert len(set(result.o2_accuracy_with_alpha.values())) == 2


def test_exchanging_twice_is_the_identity(two_layers):
    once = exchange.exchange_reads(two_layers.patterns, 2, 0, 1)
    assert np.abs(once - two_layers.patterns).max() > 0.1
    np.testing.assert_array_equal(once[0, :, 0, 2, :2], two_layers.patterns[0, :, 0, 2, 1::-1])
    np.testing.assert_array_equal(exchange.exchange_reads(once, 2, 0, 1), two_layers.patterns)


def test_exchange_in_the_model_and_in_the_closed_form_agree_on_o1(two_layers):
    model, closed = analysis.exchange_in_model(two_layers), analysis.exchange_in_closed_form(two_layers)
    assert model.n_lists == closed.n_lists == 20
    assert model.first_is_first_digit == closed.first_is_first_digit
    assert model.first_is_second_digit == closed.first_is_second_digit
    (symbols,) = circuit.circuits(two_layers)
    swapped = difference.with_alpha(symbols, symbols.alpha_2, symbols.alpha_1).o1_logits().argmax(-1)
    differ = symbols.lists[:, 0] != symbols.lists[:, 1]
    assert model.first_is_first_digit == (swapped == symbols.lists[:, 0])[differ].mean()


def test_exchange_recomputes_what_follows(two_layers):
    """The running model has new betas in layer 1; with the old ones it is the closed form."""
    patterns = exchange.exchange_reads(two_layers.patterns, 2, 0, 1)
    at_sep = np.zeros((2, 5, 5), bool)
    at_sep[0, 2] = True
    running = analysis.intervene(two_layers, patterns=patterns, patterns_at=at_sep)
    frozen = analysis.intervene(two_layers, patterns=patterns)  # keeps the old betas
    assert running.loss != pytest.approx(frozen.loss, rel=1e-4)
    (symbols,) = circuit.circuits(two_layers)
    swapped = difference.with_alpha(symbols, symbols.alpha_2, symbols.alpha_1)
    np.testing.assert_array_equal(frozen.predictions[:, 1], swapped.o2_logits().argmax(-1))


def test_exchange_of_equal_alphas_changes_nothing():
    same = observe(VARIANT, attention_scale=0.0)
    result = analysis.exchange_in_model(same, 0, 2)
    differ = same.lists[:, 0] != same.lists[:, 2]
    assert result.n_lists == differ.sum()
    assert result.first_is_first_digit == same.correct[differ, 0].mean()
    assert result.second_is_second_digit == same.correct[differ, 2].mean()
    with pytest.raises(ValueError, match="two different ones of 0 … 2"):
        analysis.exchange_in_model(same, 1, 1)


def test_margin_of_two_points(two_layers):
    """Points 0 and 6 apart along the first position's axis: the margin is 3."""
    model = make_model(TWO_LAYERS)
    model.pos_embed.W_pos[...] = jnp.eye(5, 8)
    residuals = np.zeros((25, 2, 8), np.float32)
    residuals[:, 1, 0] = 6.0
    observed = dataclasses.replace(two_layers, model=model, residuals=residuals)
    (pair,) = analysis.separate_outputs(observed).pairs
    assert (pair.first, pair.second, pair.separable, pair.accuracy) == (0, 1, True, 1.0)
    assert pair.margin == pytest.approx(3.0, rel=1e-3)

    residuals[0, 1, 0] = -1.0  # one point of o2 on the wrong side
    residuals[1, 1, 1] = 0.5
    (pair,) = analysis.separate_outputs(observed).pairs
    assert not pair.separable and np.isnan(pair.margin)
    assert pair.accuracy == pytest.approx(49 / 50)


def test_is_separable_by_the_smallest_gap():
    points, side = np.array([[0.0], [1.0], [1.0 + 1e-3], [2.0]]), np.array([-1, -1, 1, 1])
    assert separability.is_separable(points, side)
    assert not separability.is_separable(points, np.array([-1, 1, -1, 1]))


def test_reconstruction_keeps_what_positions_span(two_layers, variant):
    P = np.asarray(variant.model.pos_embed.W_pos[...])
    inside = np.random.RandomState(0).randn(64, 3, 7).astype(np.float32) @ P
    outside = np.linalg.svd(P)[2][7:].sum(0)  # the one direction that no position has
    model = variant.model
    expected = np.asarray(model.logits(inside)).argmax(-1)
    observed = dataclasses.replace(variant, residuals=inside + 50 * outside)
    result = analysis.reconstruct_from_positions(observed)
    assert (result.predictions == expected).mean() > 0.98
    assert result.accuracy == pytest.approx(result.per_position_accuracy.mean())
    assert result.predictions.shape == variant.lists.shape


def test_parameter_counts():
    for n_layers, trainable in ((2, 29_760), (3, 37_952)):
        overview = analysis.parameter_overview(make_model(ModelConfig(n_layers)))
        assert overview.trainable == trainable
        assert overview.total == trainable + n_layers * 2 * 64 * 64
    names = {p.name: p for p in overview.parameters}
    assert names["blocks.2.attn.W_Q"].shape == (1, 64, 64) and names["blocks.2.attn.W_Q"].trainable
    assert not names["blocks.2.attn.W_V"].trainable
    learned = analysis.parameter_overview(make_model(VARIANT)).parameters
    assert {p.name for p in learned if not p.trainable} == {f"blocks.{i}.attn.W_V" for i in range(2)}


def printables(value):
    """Everything printable in a result, itself included."""
    if isinstance(value, Printable):
        yield value
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    for entry in value.values() if isinstance(value, dict) else value if type(value) in (tuple, list) else ():
        yield from printables(entry)


SHORTEST = ModelConfig(n_layers=1, d_model=4, list_len=1, n_digits=3)


@pytest.mark.parametrize("config", [TWO_LAYERS, VARIANT, SHORTEST], ids=["two layers", "variant", "shortest"])
def test_every_result_prints_short_and_has_a_table(config):
    study = analysis.study_model(make_model(config), all_lists(config)[:12])
    found = list(printables(study))
    kinds = {type(result).__name__ for result in found}
    assert {"Study", "Observation", "EdgeAblation", "LogitLens", "ParameterOverview"} <= kinds
    if config is TWO_LAYERS:
        assert {"JointAblation", "OutputErrors", "Exchange", "Difference", "Separability"} <= kinds
    for result in [*found, *analysis.output_errors(study.observation.lists, study.observation)]:
        text, table = repr(result), result.table()
        assert text.startswith(type(result).__name__ + "(") and text.endswith(")")
        assert len(text) < 1000 and text.count("\n") < 8 and max(map(len, text.splitlines())) <= 110
        assert table.strip() and "array(" not in text + table and "nan" not in table
    joint = analysis.ablate_jointly(study.observation, study.observation.graph.edges)
    assert all(study.observation.graph.label(edge) in joint.table() for edge in joint.edges)


def test_the_table_of_an_edge_ablation_has_a_line_per_edge(two_layers):
    found = analysis.ablate_edges(two_layers.model, two_layers.lists, "zero")
    assert found.accuracy == two_layers.accuracy  # the same to the bit, so that tables agree
    assert (found.graph, repr(found).count("bool[13]")) == (two_layers.graph, 1)
    lines = found.table().splitlines()
    assert len(lines) == 1 + 13 + 2
    for edge, live, line in zip(found.edges, found.live, lines[1:], strict=False):
        kind = "critical" if edge in found.critical else "live" if live else "dead"
        assert line.startswith(found.graph.label(edge)) and line.endswith(kind)
        assert formatting.percent(found.accuracies[found.edges.index(edge)]) in line
        assert formatting.points(found.deltas[found.edges.index(edge)], 2) in line
    assert formatting.percent(found.accuracy) in lines[-2]
    assert formatting.percent(found.accuracy_without_non_critical) in lines[-1]


def test_every_analysis_that_can_serves_any_model(variant):
    for observed in (variant, observe(SHORTEST)):
        n = observed.graph.list_len
        assert analysis.attention_statistics(observed).alpha.shape[-1] == n
        assert len(analysis.sep_attention(observed).pairs) == n * (n - 1) // 2
        assert len(analysis.separate_outputs(observed).pairs) == n - 1
        assert analysis.logit_lens(observed).agreement.shape[-1] == n
        assert len(analysis.ablate_jointly(observed, observed.graph.edges).errors) == n
        assert analysis.reconstruct_from_positions(observed).predictions.shape == observed.lists.shape


def test_interventions_on_an_observation_are_checked(two_layers):
    for given, said in (
        ({"keep": np.ones((5, 5))}, r"keep must have shape \[2, 1, 5, 5\], got \[5, 5\]"),
        ({"keep": -np.ones((2, 1, 5, 5))}, "keep must hold finite numbers, none below 0"),
        ({"patterns": np.ones((5, 5))}, "patterns must have shape"),
        ({"patterns_at": np.ones((2, 5, 5), bool)}, "must be given together"),
        ({"renormalize": "zero"}, "renormalize must hold"),
    ):
        with pytest.raises(UserError, match=said):
            analysis.intervene(two_layers, **given)


def test_a_model_that_diverged_is_not_analysed():
    model = make_model(TWO_LAYERS)
    model.unembed.W_U[...] = model.unembed.W_U[...].at[0, 0].set(jnp.nan)
    with pytest.raises(UserError, match="some of its weights are not finite"):
        analysis.observe(model, all_lists(TWO_LAYERS))
