"""Every program goes through the compilers of accelerators, and what these make of it is read correctly."""

import importlib.util
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from orderscale_jax.accelerators import hlo, targets
from orderscale_jax.accelerators.programs import Program, all_programs, training_step
from orderscale_jax.cli import compile as command
from orderscale_jax.cli import machine
from orderscale_jax.config import LAST_SCORES, Setup, TrainConfig, as_drawn
from orderscale_jax.errors import MissingPackage, UserError
from orderscale_jax.model import ModelConfig
from orderscale_jax.sae import SAEConfig
from orderscale_jax.task import TaskConfig, make_split


def small(n_layers=2, list_len=2, **train):
    """A setup of few digits, and its lists."""
    task = TaskConfig(n_digits=8, list_len=list_len)
    model = ModelConfig(d_model=8, n_digits=8, n_layers=n_layers, list_len=list_len)
    setup = Setup(model, task, TrainConfig(batch_size=16, eval_every=5, max_steps=100, **train))
    return setup, make_split(task)


def small_programs(kernel, n_devices=1):
    """The programs that the command compiles, small."""
    frozen = as_drawn(LAST_SCORES)
    trained = {
        "from_set": (*small(overrides=frozen), [1, 4]),
        "drawn_afresh": (*small(overrides=frozen, batches="sampled"), [4]),
        "three_layers": (*small(n_layers=3), [4]),
    }
    analysed = {}
    for name, (n_layers, list_len) in command.ANALYSED.items():
        setup, split = small(n_layers, list_len)
        analysed[name] = setup.model, split
    saes = [SAEConfig(width=8, k=2, batch_size=16)]
    return {program.name: program for program in all_programs(trained, analysed, 4, n_devices, kernel, saes)}


PROGRAMS = {platform: small_programs(kernel) for platform, kernel in (("cuda", "gpu"), ("tpu", "tpu"))}
KERNELS = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
@pytest.mark.parametrize("platform", PROGRAMS)
@pytest.mark.parametrize("name", PROGRAMS["tpu"])
def test_every_program_lowers_and_its_products_have_all_bits(name, platform):
    function, arguments = PROGRAMS[platform][name].build(None)
    with targets.lowering(platform):
        text = function.trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
    found = re.findall(r"stablehlo\.dot_general .*", text)
    kind = name.split("_")[0]
    assert bool(found) == (kind != "drawing") and "stablehlo.convolution" not in text
    for product in found:
        assert "precision = [HIGHEST, HIGHEST]" in product and "algorithm" not in product, product
    has_kernel = kind in ("step", "stretch") and platform == "tpu"  # a GPU's is for more runs than four
    if platform == "tpu":
        has_kernel |= kind == "validation" or (kind == "drawing" and "afresh" not in name)
    assert (KERNELS[platform] in text) == has_kernel


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")
def test_a_gpu_trains_many_runs_with_the_kernel():
    program = training_step("x", small()[0], 16, "gpu")
    function, arguments = program.build(None)
    with targets.lowering("cuda"):
        text = function.trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert KERNELS["cuda"] in text


def test_what_is_compiled():
    trained = ("from_set_1_run", "from_set_4_runs", "drawn_afresh_4_runs", "three_layers_4_runs")
    assert list(PROGRAMS["tpu"]) == [
        *(f"{kind}_{which}" for which in trained for kind in ("drawing", "step", "stretch")),
        "validation_from_set_4_runs",
        *("observation_two_layers", "ablation_two_layers_renormalize", "ablation_two_layers_zero"),
        *("observation_three_layers", "ablation_three_layers_renormalize", "ablation_three_layers_zero"),
        *("observation_three_digits", "ablation_three_digits_renormalize", "ablation_three_digits_zero"),
        *("sae_step_batch_topk_8_latents_1_run", "sae_step_batch_topk_8_latents_4_runs"),
    ]
    several = {
        "stretch_from_set_4_runs_4_devices_by_runs": 5,
        "stretch_from_set_1_run_4_devices_by_batch": 5 / 4,
    }
    more = small_programs("tpu", 4).items() - PROGRAMS["tpu"].items()
    assert {name: program.run_steps for name, program in more if name not in PROGRAMS["tpu"]} == several


GPU = """
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[8,4]{1,0})->f32[8]{0}}

%sums (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%fused (p0: f32[100,4], p1: s32[8,1]) -> (f32[8,4], pred[8,4]) {
  %p0 = f32[100,4]{1,0} parameter(0)
  %p1 = s32[8,1]{1,0} parameter(1)
  %gather.1 = f32[8,4]{1,0} gather(%p0, %p1), offset_dims={1}, slice_sizes={1,4}
  %zero = f32[] constant(0)
  %zeros = f32[8,4]{1,0} broadcast(%zero), dimensions={}
  %compare.1 = pred[8,4]{1,0} compare(%gather.1, %zeros), direction=GT
  ROOT %both = (f32[8,4]{1,0}, pred[8,4]{1,0}) tuple(%gather.1, %compare.1)
}

%moving (p: f32[8,4]) -> f32[4,8] {
  %p = f32[8,4]{1,0} parameter(0)
  ROOT %transpose.1 = f32[4,8]{1,0} transpose(%p), dimensions={1,0}
}

%body (state: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %state = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x.1 = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %w = f32[4,4]{1,0} constant({...})
  %dot.1 = f32[8,4]{1,0} dot(%x.1, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}, operand_precision={highest,highest}
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%i, %dot.1)
}

%condition (state.1: (s32[], f32[8,4])) -> pred[] {
  %state.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %go = pred[] constant(true)
}

ENTRY %main (table: f32[100,4], places: s32[8,1]) -> f32[4,8] {
  %table = f32[100,4]{1,0} parameter(0)
  %places = s32[8,1]{1,0} parameter(1)
  %fusion.1 = (f32[8,4]{1,0}, /*index=1*/pred[8,4]{1,0}) fusion(%table, %places), kind=kLoop, calls=%fused, metadata={op_name="a(b)"}
  %got = f32[8,4]{1,0} get-tuple-element(%fusion.1), index=0
  %start = s32[] constant(0)
  %init = (s32[], f32[8,4]{1,0}) tuple(%start, %got)
  %while.1 = (s32[], f32[8,4]{1,0}) while(%init), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %out = f32[8,4]{1,0} get-tuple-element(%while.1), index=1
  %gemm = f32[8,4]{1,0} custom-call(%out, %got), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"selected_algorithm":"0","dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"],"algorithm":"ALG_DOT_TF32_TF32_F32"}}}
  ROOT %turned = f32[4,8]{1,0} fusion(%gemm), kind=kLoop, calls=%moving
}
"""  # noqa: E501

TPU = """
HloModule jit_f, is_scheduled=true

ENTRY %main (x: f32[100,64]) -> f32[25,64] {
  %x = f32[100,64]{0,1:T(8,128)} parameter(0)
  %slice-start = ((f32[100,64]{0,1:T(8,128)}), f32[25,64]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%x), slice={[0:25], [0:64]}
  %copy-start = (f32[100,64]{0,1:T(8,128)S(1)}, f32[100,64]{0,1:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %slice-done = f32[25,64]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  %copy-done = f32[100,64]{0,1:T(8,128)S(1)} copy-done(%copy-start)
  %joined = f32[25,64]{1,0:T(8,128)S(1)} custom-call(%slice-done), custom_call_target="ConcatBitcast"
  %kernel = bf16[25,64]{1,0:T(8,128)(2,1)} custom-call(%joined), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{"body":"","cost_estimate":{"flops":"77","transcendentals":"0"}}}
  ROOT %convolution.1 = f32[25,64]{1,0:T(8,128)} convolution(%kernel, %copy-done), dim_labels=bf_io->bf, operand_precision={highest,default}
}
"""  # noqa: E501


def test_a_program_for_a_gpu_is_read():
    module = hlo.read(GPU)
    array = 4 * 8 * 4
    moved = {
        "fusion.1": array + 4 * 8 + (array + 32),  # of the table what it gathers
        "while.1": 3 * (array + 4 * 4 * 4 + array),
        "gemm": 3 * array,
        "turned": 2 * array,
    }
    product = 2 * 8 * 4 * 4
    assert hlo.cost(module) == hlo.Cost(
        kernels=4, copies=1, bytes_moved=sum(moved.values()), flops=3 * product + product
    )
    assert hlo.picks(module, "gather") == (1, 0) and hlo.picks(module, "scatter") == (0, 0)
    dot, gemm = hlo.products(module)
    assert dot == hlo.Product("dot.1", ("f32", "f32"), ("highest", "highest"), "", product) and dot.is_full
    assert (gemm.precision, gemm.algorithm) == (("default", "default"), "dot_tf32_tf32_f32")
    assert gemm.flops == product and not gemm.is_full and hlo.custom_kernels(module) == 0


def test_a_loop_that_does_not_say_how_often_it_goes_round_is_read():
    silent = GPU.replace('"known_trip_count":{"n":"3"}', "")
    counted = """%n = s32[] constant(3)
  %at = s32[] get-tuple-element(%state.1), index=0
  ROOT %go = pred[] compare(%at, %n), direction=LT"""
    known, once = (hlo.cost(hlo.read(text)) for text in (GPU, silent))
    found = hlo.cost(hlo.read(silent.replace("ROOT %go = pred[] constant(true)", counted)))
    assert (found.flops, once.flops) == (known.flops, known.flops / 2)
    assert found.bytes_moved == known.bytes_moved + 3 * (4 + 4 + 1)


def test_a_program_for_a_tpu_is_read():
    module = hlo.read(TPU)
    assert hlo.size("f32[100,64]{0,1:T(8,128)}") == 4 * 64 * 128  # 100 lies along the lanes
    assert hlo.size("f32[100,64]{1,0:T(8,128)}") == 4 * 104 * 128
    assert hlo.size("(f32[3]{0:T(256)}, pred[5,5]{1,0:T(8,128)(4,1)}, u32[]{:S(2)})") == 1024 + 1024
    slice_read, copy_read, written, convolution = 4 * 32 * 128, 4 * 64 * 128, 2 * 32 * 128, 4 * 32 * 128
    assert hlo.cost(module) == hlo.Cost(
        kernels=4,
        copies=2,
        bytes_moved=slice_read + copy_read + written + (written + convolution),
        flops=77 + 2 * 25 * 64 * 64,
    )
    assert hlo.custom_kernels(module) == 1
    (product,) = hlo.products(module)
    assert product.types == ("bf16", "f32") and not product.is_full


def test_single_numbers_are_told_from_rows():
    line = "  %g.{} = f32[2]{{0}} gather(%a, %b), slice_sizes={{{}}}"
    lines = [line.format(i, sizes) for i, sizes in enumerate(("1", "1,1,1", "1,4", "11"))]
    lines += [
        f"  %s.{i} = f32[2]{{0}} scatter(%a), update_window_dims={{{x}}}" for i, x in enumerate(("", "1"))
    ]
    module = hlo.read("\n".join(["ENTRY %main (a: f32[2]) -> f32[2] {", *lines, "}"]))
    assert hlo.picks(module, "gather") == (4, 2) and hlo.picks(module, "scatter") == (2, 1)


def test_a_program_of_this_machine_is_read():
    def steps(x, n_steps):
        return jax.lax.fori_loop(0, n_steps, lambda _, x: jnp.matmul(x, x, precision="highest"), x)

    found = {}
    for n_steps in (4, 8):
        compiled = jax.jit(steps, static_argnums=1).lower(jnp.ones((16, 16)), n_steps).compile()
        found[n_steps] = hlo.cost(hlo.read(compiled.as_text()))
        assert found[n_steps].flops == n_steps * 2 * 16**3
    assert found[4].kernels == found[8].kernels >= 1
    assert found[8].bytes_moved - found[4].bytes_moved >= 4 * 3 * 4 * 16**2


COMPILE = """
import json, os, sys
from orderscale_jax.accelerators import targets
target = targets.find(sys.argv[1])
os.environ.update(targets.environment(target))
import jax
from orderscale_jax.accelerators import costs
from test_accelerators import small_programs
compiled, plan = [], costs.planned_bytes
costs.planned_bytes = lambda program: compiled.append(program) or plan(program)
devices, programs = targets.devices(target), small_programs(target.kernel, target.n_devices)
for name in sys.argv[2:]:
    print(json.dumps(costs.costs(programs[name], target, devices)))
    (where,) = {tuple(x.device_set) for x in jax.tree.leaves(compiled.pop().input_shardings)}
    assert set(where) <= set(devices) and len(where) == (4 if "devices" in name else 1), where
"""


@pytest.mark.parametrize("target", ["v5e", "h100"])
def test_programs_compile(target):
    try:
        targets.environment(targets.find(target))
    except MissingPackage as error:
        pytest.skip(str(error))
    several = ["stretch_from_set_4_runs_4_devices_by_runs"] * (targets.find(target).n_devices > 1)
    names = ["step_from_set_4_runs", *several, "ablation_two_layers_renormalize"]
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, target, *names],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["program"] for line in lines] == names
    for line in lines:
        assert line["fits"] and line["kernels"] > 0 and line["bytes_moved"] > 0 and line["flops"] > 0
        assert line["products"] > 0 and line["products_with_fewer_bits"] == 0
        assert (line["bytes_per_run_step"] is None) == line["program"].startswith("ablation")


def here(memory_bytes=1e9) -> targets.Target:
    """A target that is this machine."""
    return targets.Target("here", "cpu", "cpu", 1, 1e9, 2e9, memory_bytes)


def test_each_program_has_a_line(capsys, tmp_path):
    setup, _ = small()
    program = training_step("x", setup, 2, None)
    command.compile_all([program], here(), jax.devices(), machine.Lines(tmp_path / "lines"))
    said = capsys.readouterr().out
    assert (tmp_path / "lines").read_text() == said
    line = json.loads(said)
    assert line["program"] == "step_x_2_runs" and line["target"] == "here" and line["fits"]
    assert line["bytes_per_run_step"] == round(line["bytes_moved"] / 2)
    assert line["bound_by_memory_per_second"] == pytest.approx(2e9 / line["bytes_moved"], rel=0.01)
    assert line["bound_by_arithmetic_per_second"] == pytest.approx(4e9 / line["flops"], rel=0.01)
    arrays = sum(np.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(program.build(None)[1]))
    assert line["memory_bytes"] >= 0.9 * arrays


def test_what_cannot_run_is_named_after_all_others(capsys):
    def fails(devices):
        raise NotImplementedError("no such kernel\nat a place")

    good = training_step("x", small()[0], 2, None)
    wanted = [Program("broken", fails), good]
    with pytest.raises(UserError) as error:
        command.compile_all(wanted, here(memory_bytes=10), jax.devices())
    assert json.loads(capsys.readouterr().out)["fits"] is False
    text = str(error.value)
    assert text.startswith("2 of 2 programs cannot run on here: broken does not compile (no such kernel); ")
    assert re.search(r"; step_x_2_runs takes 0\.0 GB, more than there is$", text)


@pytest.mark.parametrize(
    ("target", "missing", "said"),
    [
        ("v5e", "libtpu", "needs libtpu: pip install 'orderscale-jax[tpu]'"),
        ("h100", "nvidia", "pip install --no-deps jax-cuda13-pjrt=="),
        ("h100", "jax_cuda13_plugin", "nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-runtime"),
    ],
)
def test_a_missing_compiler_is_named(monkeypatch, target, missing, said):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else found(name))
    with pytest.raises(MissingPackage) as error:
        targets.environment(targets.find(target))
    assert said in str(error.value) and "\n" not in str(error.value)
