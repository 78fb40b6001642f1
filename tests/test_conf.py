"""Every file under conf/ is composed, checked and put to use."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

import expanders
from expanders import sparsify
from expanders.data import Transform
from expanders.errors import SettingError
from expanders.runs import settings
from expanders.runs.identity import Identity, identity_of, used_settings
from expanders.runs.tracking import WandbSettings
from expanders.training.device import choose_device
from expanders.wiring.degrees import LayerShape, NetworkShape
from hydra_plugins.expanders_sweeper.naming import degree_as_value, resolved, run_name, with_recipe

CONF = Path(__file__).parent.parent / "conf"
GROUPS = ("model", "graph", "degree", "dataset", "optimizer", "schedule")


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str, **keywords) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides), **keywords)


def checked(*overrides: str) -> settings.Config:
    return settings.checked(resolved(composed(*overrides)))


def built(node):
    extra = settings.OPTIONAL["model"].keys() | settings.OPTIONAL["graph"].keys()
    own = {key: value for key, value in node.items() if key not in extra}
    return instantiate(own, _convert_="all")


def test_all_files_are_in_known_groups():
    groups = {path.relative_to(CONF).parts[0] for path in CONF.rglob("*.yaml")}
    assert groups == {*GROUPS, "config.yaml", "recipe", "hydra"}


def named(option: str) -> list[str]:
    return [f"model={option}", *["model.name=squeezenet1_1"] * (option == "torchvision")]


@pytest.mark.parametrize("option", options("model"))
def test_models_build_and_their_skipped_layers_exist(option):
    node = checked(*named(option)).model
    model = built({**node, "num_classes": 7})
    assert model.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    for name in node["skip"] or ():
        assert model.get_submodule(name).weight is not None


@pytest.mark.parametrize("option", options("graph"))
def test_graphs_connect(option):
    graph = built(checked(f"graph={option}").graph)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(512, 2)
    )
    images = torch.randn(200, 3, 8, 8), torch.arange(200) % 2
    layers = sparsify(model, graph, 3, skip=["3"], images=images).layers
    assert [layer.kept for layer in layers] == ["", "", "skipped"]
    assert all(0 < layer.edges <= layer.shape[0] * layer.shape[1] for layer in layers)


@pytest.mark.parametrize("option", options("degree"))
def test_degree_policies_give_every_layer_a_budget(option):
    policy = built(checked(f"degree={option}").degree)
    shapes = (LayerShape("a", 512, 256, (3, 3)), LayerShape("b", 64, 128, (1, 1)))
    budgets = policy(NetworkShape(shapes, 1000), built(checked().graph))
    assert [0 < n <= s.num_left * s.num_right for n, s in zip(budgets, shapes, strict=True)]


@pytest.mark.parametrize("option", options("dataset"))
def test_data_sets_can_be_described_before_they_are_read(option, few_images):
    root = [] if option == "digits" else [f"dataset.root={few_images}"]
    dataset = checked(f"dataset={option}", *root).dataset
    assert instantiate(dataset["source"], _convert_="all").num_classes >= 2
    transform = instantiate(dataset["transform"], _convert_="all")
    assert transform.eval(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape[:2] == (2, 3)


@pytest.mark.parametrize("option", options("optimizer"))
@pytest.mark.parametrize("schedule", options("schedule"))
def test_optimizers_and_schedules_step(option, schedule):
    config = checked(f"optimizer={option}", f"schedule={schedule}")
    weight = torch.zeros(3, requires_grad=True)
    optimizer = built(config.optimizer)([weight])
    steps = built(config.schedule)(optimizer)
    weight.sum().backward()
    optimizer.step()
    steps.step()
    assert torch.all(weight != 0)


@pytest.mark.parametrize("option", options("hydra/launcher"))
def test_launchers_can_be_had_and_know_their_parameters(option):
    if option == "ray_local":  # its plugin is not among the packages for development: Ray is large
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="Ray is not installed")
    cfg = composed(f"hydra/launcher={option}", return_hydra_config=True)
    launcher = Plugins.instance()._instantiate(cfg.hydra.launcher)
    assert isinstance(launcher, Launcher)


def test_a_sweep_takes_the_gpus_by_turns(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    chosen = [str(choose_device("auto", turn)) for turn in range(3)]
    assert chosen == ["cuda:0", "cuda:1", "cuda:0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert choose_device("auto", 3) == torch.device("cpu")


PAPER = {  # (lr, weight decay, lr floor), batch size on CIFAR-10, on Tiny ImageNet
    "vgg16bn": ((0.05, 5e-4, 5e-4), 128, 1024),
    "resnet18": ((0.1, 1e-4, 1e-5), 1024, 128),
    "resnet34": ((0.1, 1e-4, 1e-5), 1024, 128),
    "resnet50": ((0.1, 1e-4, 1e-5), 1024, 128),
    "resnet101": ((0.1, 1e-4, 1e-5), 1024, 128),
    "resnet152": ((0.1, 1e-4, 1e-5), 1024, 128),
}


@pytest.mark.parametrize("model", PAPER)
@pytest.mark.parametrize("dataset", ["cifar10", "tinyimagenet"])
def test_a_pair_has_the_papers_hyperparameters_untyped(model, dataset):
    config = checked(f"model={model}", f"dataset={dataset}")
    (lr, weight_decay, floor), cifar_batch, tiny_batch = PAPER[model]
    assert config.optimizer["lr"] == lr
    assert config.optimizer["weight_decay"] == weight_decay
    assert (config.optimizer["momentum"], config.optimizer["nesterov"]) == (0.9, True)
    assert config.optimizer["_target_"] == "torch.optim.SGD"
    assert (config.schedule["step_size"], config.schedule["gamma"]) == (30, 0.5)
    assert config.schedule["min_lr"] == floor
    assert config.batch_size == (cifar_batch if dataset == "cifar10" else tiny_batch)
    assert config.epochs == 300
    transform = config.dataset["transform"]
    expected = {("cifar10", True): (None, 32), ("cifar10", False): (None, 32)}
    expected |= {("tinyimagenet", True): (None, 32), ("tinyimagenet", False): (256, 224)}
    assert (transform["resize"], transform["crop"]) == expected[dataset, model == "vgg16bn"]


def test_recipes_of_the_field_step_where_they_say():
    config = checked("model=resnet18", "dataset=cifar100")
    assert (config.epochs, config.batch_size, config.model["stem"]) == (200, 128, "cifar")
    optimizer = built(config.optimizer)([torch.zeros(1, requires_grad=True)])
    schedule = built(config.schedule)(optimizer)
    rates = []
    for _ in range(200):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    drops = [epoch for epoch in range(1, 200) if rates[epoch] != rates[epoch - 1]]
    assert drops == [60, 120, 160]
    assert rates[-1] == pytest.approx(0.1 * 0.2**3)
    svhn = checked("model=wideresnet", "dataset=svhn", "schedule=cosine", "epochs=7")
    assert (svhn.optimizer["lr"], svhn.epochs) == (0.01, 7)


def test_every_recipe_is_of_a_pair_that_exists():
    for recipe in options("recipe"):
        model, _, dataset = recipe.partition("_")
        assert model in options("model")
        assert dataset in options("dataset")
        assert checked(f"model={model}", f"dataset={dataset}").batch_size > 1


@pytest.mark.parametrize(
    ("typed", "recipe"),
    [
        (["model=torchvision", "model.name=vit_b_16"], "vit_b_16_${dataset}"),
        (["+model.name=vit_b_16"], "vit_b_16_${dataset}"),
        (["model.name=vit_b_16", "recipe=mine"], "mine"),
        (["model.name=vit_b_16", "~recipe"], None),
        (["model.name=vit_b_16,vgg11"], None),
        (["model=resnet18"], None),
    ],
)
def test_a_network_with_a_name_has_the_recipe_of_that_name(typed, recipe):
    added = set(with_recipe(typed)) - set(typed)
    assert added <= {f"recipe={recipe}"}
    assert (f"recipe={recipe}" in with_recipe(typed)) == (recipe is not None)


def test_an_override_wins_over_a_recipe():
    config = checked(
        "model=resnet18", "dataset=cifar10", "optimizer.lr=0.3", "batch_size=64", "epochs=5"
    )
    assert (config.optimizer["lr"], config.batch_size, config.epochs) == (0.3, 64, 5)


def test_recipes_leave_other_optimizers_alone():
    config = checked("model=resnet18", "dataset=cifar10", "optimizer=adamw")
    assert (config.optimizer["lr"], config.optimizer["weight_decay"]) == (1e-3, 0.01)


@pytest.mark.parametrize(
    ("typed", "passed"),
    [
        ("degree=15", "degree.value=15"),
        ("degree=3,15,30,60", "degree.value=3,15,30,60"),
        ("degree=2.5", "degree.value=2.5"),
        ("degree=0", "degree.value=0"),
        ("degree=-3", "degree.value=-3"),
        ("degree=constant", "degree=constant"),
        ("degree=range(3,9,3)", "degree.value=range(3,9,3)"),
        ("degree=choice(3,15)", "degree.value=choice(3,15)"),
        ("degree=interval(3,15)", "degree.value=interval(3,15)"),
        ("degree=1e9", "degree.value=1e9"),
        ("degree=nan", "degree.value=nan"),
        ("degree=[3,15]", "degree.value=[3,15]"),
        ("degree='3','15'", "degree.value='3','15'"),
        ("degree=choice(constant,erk)", "degree=choice(constant,erk)"),
        ("degree=erk,uniform", "degree=erk,uniform"),
        ("degree.value=7", "degree.value=7"),
        ("mydegree=3", "mydegree=3"),
        ("--cfg", "--cfg"),
    ],
)
def test_a_number_for_the_degree_becomes_its_value(typed, passed):
    assert degree_as_value(typed) == passed


def name_of(*overrides: str) -> str:
    cfg = composed(*overrides, return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    return run_name(_root_=cfg)


def identity(*overrides: str) -> Identity:
    cfg = composed(*overrides, return_hydra_config=True)
    return identity_of(used_settings(resolved(cfg), cfg.hydra.runtime.choices))


def test_runs_that_differ_have_folders_that_differ():
    name = name_of()
    assert re.fullmatch(r"vgg16bn-digits-rreg-d3-s0-[0-9a-f]{8}", name)
    different = [
        "seed=1", "seeds.graph=1", "degree.value=4", "degree.budget=paper", "optimizer.lr=0.1",
        "epochs=3", "model=resnet18", "init.fan=live", "dataset.val_fraction=0.2", "graph=xnet",
    ]  # fmt: skip
    names = [name, *(name_of(override) for override in different)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["graph=rewired", "graph.p=0.3"], "rewired-p0.3-d3-s0"),
        (["graph=xnet", "graph.side=smaller", "degree.budget=paper"], "xnet-smaller-d3-paper-s0"),
        (["graph=dense"], "digits-dense-s0"),
        (["seed=4", "seeds.graph=7"], "rreg-d3-s4-graph7"),
        (["degree=erk", "degree.density=0.05"], "rreg-erk-s0"),
    ],
)
def test_a_folder_is_named_by_what_varies(overrides, words):
    assert words in name_of(*overrides)


@pytest.mark.parametrize("line", (CONF.parent / "tests/run_names.txt").read_text().splitlines())
def test_names_stay(line):
    """Another name for the same settings would orphan the finished runs of all users."""
    name, *overrides = line.split()
    assert name_of(*overrides) == name


@pytest.mark.parametrize(
    "same",
    [
        ["device=cpu"],
        ["num_threads=1"],
        ["wandb.mode=offline"],
        ["restart=true"],
        ["graph.measures=full"],
        ["degree.value=3.0", "label_smoothing=0"],
        ["seeds.graph=0", "seeds.data=0"],
        ["schedule=constant", "recipe.min_lr=0.01"],
        ["optimizer=adamw", "schedule=constant", "recipe.lr=7"],
        [
            "dataset=cifar10",
            "dataset.root=elsewhere",
            "dataset.cache=there",
            "dataset.storage=disk",
        ],
        ["graph=dense", "degree.value=15", "init.fan=live", "seeds.graph=3"],
        ["graph=magnitude", "seeds.graph=3"],
        ["graph=snip", "seeds.graph=3"],
        ["graph=thin", "seeds.graph=3"],
    ],
    ids=" ".join,
)
def test_what_changes_no_result_changes_no_name(same):
    choices = [word for word in same if "." not in word and word.split("=")[0] in GROUPS]
    assert name_of(*same) == name_of(*choices)


def test_a_checkpoint_counts_by_its_path_however_that_is_spelled(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [
        "runs/a/best.pt",
        "./runs/b/../a/best.pt",
        f"{tmp_path}/runs/a/best.pt",
        "~/runs/a/best.pt",
    ]
    assert len({name_of(f"checkpoint={path!r}") for path in paths}) == 1
    elsewhere = ["other.pt", "../runs/a/best.pt", "/runs/a/best.pt"]
    assert len({name_of(f"checkpoint={path}") for path in [paths[0], *elsewhere]}) == 4


def test_a_graph_seed_counts_for_a_scored_wiring_whose_places_are_random():
    names = [
        name_of("graph=snip", f"graph.placement={p}", "seeds.graph=3") for p in ("scored", "random")
    ]
    assert "s0-graph3" in names[1]
    assert "s0-graph3" not in names[0]


def test_a_new_setting_with_its_default_and_a_moved_module_rename_no_run(monkeypatch):
    cfg = composed(return_hydra_config=True)
    used = used_settings(resolved(cfg), cfg.hydra.runtime.choices)
    name = identity_of(used).name

    def step(optimizer, step_size=30, gamma=0.5, min_lr=0.0, warmup=0): ...

    moved = types.ModuleType("expanders.elsewhere")
    moved.step = step
    monkeypatch.setitem(sys.modules, "expanders.elsewhere", moved)
    monkeypatch.setattr(expanders, "elsewhere", moved, raising=False)
    schedule = used["schedule"] | {"_target_": "expanders.elsewhere.step", "warmup": 0}
    assert identity_of(used | {"schedule": schedule}).name == name
    schedule["warmup"] = 1
    assert identity_of(used | {"schedule": schedule}).name != name


def test_a_function_of_another_package_or_of_another_name_is_another_run():
    names = [
        name_of(),
        name_of("graph._target_=expanders.graphs.lift", "~graph.select", "~graph.draws"),
        name_of("optimizer._target_=torch.optim.RMSprop", "~optimizer.nesterov"),
    ]
    assert len(set(names)) == 3


def test_an_image_folder_is_called_by_its_own_name(few_images, tmp_path):
    at = [f"dataset.root={few_images}", "dataset=image_folder"]
    moved = tmp_path / few_images.name
    moved.symlink_to(few_images)
    name = name_of(*at)
    assert name.startswith(f"vgg16bn-{few_images.name}-rreg-d3-s0-")
    assert name_of(f"dataset.root={moved}", at[1]) == name
    assert name_of(*at, "dataset.name=flowers").startswith("vgg16bn-flowers-rreg-d3-s0-")
    assert name_of(*at, f"dataset.name={few_images.name}") == name


def test_runs_are_called_alike_on_wandb_and_on_the_disk():
    """The seeds of all streams are in both."""
    grid = [(g, i) for g in (0, 1) for i in (0, 1)]
    named = [identity(f"seeds.graph={g}", f"seeds.init={i}") for g, i in grid]
    assert len({each.name for each in named}) == 4
    assert len({each.cell for each in named}) == 1
    assert "-s0-graph1-init1-" in named[3].name


def test_defaults_in_yaml_are_those_in_the_code():
    """Of every setting at the top, of the small groups, and of what a group may leave out."""
    plain = resolved(composed())
    for target, values in (
        (settings.Config, plain),
        (settings.Seeds, plain["seeds"]),
        (settings.Init, plain["init"]),
        (WandbSettings, plain["wandb"]),
    ):
        for name, default in settings.default_values(target).items():
            if isinstance(values.get(name), dict):
                continue
            shown = "" if default == () else default
            assert values[name] == shown, name


# Settings that a group's file must give, or that the file takes from elsewhere.
FROM_THE_FILE = {"lr", "weight_decay", "epochs", "root", "mean", "std", "momentum", "nesterov"}


@pytest.mark.parametrize("group", GROUPS)
def test_defaults_of_a_groups_options_are_those_of_its_function(group):
    for option in options(group):
        if (group, option) in {("dataset", "image_folder")}:
            continue
        chosen = named(option) if group == "model" else [f"{group}={option}"]
        node = checked(*chosen).__dict__[group]
        nodes = [node["source"]] if group == "dataset" else [node]
        for each in nodes:
            defaults = settings.default_values(settings.function_of(each, group))
            for name in defaults.keys() & each.keys() - FROM_THE_FILE:
                if name not in ("step_size", "min_lr"):  # the recipe's
                    assert each[name] == defaults[name], f"{group}={option}: {name}"


def test_wandbs_environment_variables_hold_where_nothing_else_is_said(monkeypatch):
    given = {
        "MODE": "disabled", "PROJECT": "mine", "ENTITY": "us", "NAME": "first", "RUN_GROUP": "all",
        "TAGS": "a, b", "NOTES": "why", "DIR": "/elsewhere",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    config = checked("wandb.project=typed")
    expected = {"mode": "disabled", "project": "typed", "entity": "us", "name": "first"}
    expected |= {"group": "all", "notes": "why", "dir": "/elsewhere"}
    assert expected.items() <= config.wandb.items()
    assert WandbSettings(**config.wandb).named("n", "g", ["c"]).tags == ["c", "a", "b"]
    assert name_of() == checked_name_without_wandb(monkeypatch, given)


def checked_name_without_wandb(monkeypatch, given):
    for name in given:
        monkeypatch.delenv(f"WANDB_{name}")
    return name_of()


def test_hydras_own_keys_are_no_settings_of_a_function():
    checked("+optimizer._convert_=all", "+graph._recursive_=false")


def test_a_groups_file_may_leave_out_what_has_a_default():
    config = checked(
        "~model.skip", "~graph.measures", "~dataset.val_fraction", "~dataset.transform",
        "~init.fan", "~init.redraw",
    )  # fmt: skip
    assert config.init == {"fan": "dense", "redraw": False}
    assert config.model["skip"] is None
    assert config.graph["measures"] == "default"
    assert config.dataset["val_fraction"] == 0.1
    assert instantiate(config.dataset["transform"]) == Transform()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("degree.value=abc", "degree.value=abc: must be a number"),
        ("epochs=ten", "epochs=ten: must be an integer"),
        ("seeds.init=x", "seeds.init=x: must be an integer"),
        ("+seeds.foo=1", "seeds.foo=1: no such setting here; there are: graph, init, data"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("seeds.data=-1", "seeds.data=-1: must be 0 or more"),
        ("seed=null", "seed=null: must be an integer"),
        ("seed=", "seed=: must be an integer"),
        ("epochs=-1", "epochs=-1: must be 0 (no training) or more"),
        ("batch_size=1e30", "batch_size=1e+30: must be an integer"),
        ("optimizer.lr=1e308", "optimizer.lr=1e+308: must be a number that float32 can hold"),
        ("seed=1" + "0" * 40, "0: must be an integer of at most 64 bits"),
        ("optimizer.lr=[1]", "optimizer.lr=[1]: must be a number"),
        ("optimizer.momentum=[1]", "optimizer.momentum=[1]: must be a number"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a number that float32 can hold"),
        ("optimizer.momentum=2", "optimizer.momentum=2: must be at least 0 and below 1"),
        ("schedule.min_lr=nan", "schedule.min_lr=nan: must be a number that float32 can hold"),
        ("degree.value=nan", "degree.value=nan: must be a number that float32 can hold"),
        ("degree.value=[3,15]", "degree.value=[3, 15]: must be a number"),
        ("checkpoint_minutes=-1", "checkpoint_minutes=-1: must be 0 or more"),
        ("checkpoint_minutes=nan", "checkpoint_minutes=nan: must be a number"),
        ("num_threads=100000", "num_threads=100000: must be 1 or more and at most 1024"),
        ("num_threads=1099511627776", "num_threads=1099511627776: must be 1 or more"),
        ("objective=val/acuracy", "objective=val/acuracy: must be one of val/accuracy, val/loss"),
        ("objective=test/accuracy", "test images are for the end of a study"),
        ("runs_dir=", "runs_dir=: must be a path"),
        ("start_from=", "start_from=: must be a path"),
        ("checkpoint=", "checkpoint=: must be a path"),
        ("init.fan=wide", "init.fan=wide: choose dense or live"),
        ("execution=fast", "execution=fast: choose auto, dense or sparse"),
        ("wandb.project=", "wandb.project=: must be the name of a project"),
        ("model.skip=fc", "model.skip=fc: must be a list of layers, as model.skip=[fc]"),
        ("~optimizer", "optimizer=: is missing; the run needs it"),
        ("~dataset.source", "dataset.source=: is missing"),
        ("+graph.num_edges=5", "graph.num_edges=5: no such setting here; there are: select, draws"),
        ("optimizer.lr=0", "optimizer.lr=0: must be above 0"),
        ("num_threads=0", "num_threads=0: must be 1 or more"),
        ("+optimizer.extra=1", "optimizer.extra=1: no such setting here"),
        ("dataset.transform.crop=big", "dataset.transform.crop=big: must be an integer"),
        ("wandb.mode=maybe", "wandb.mode=maybe: must be auto or online"),
        ("+wandb.extra=1", "wandb.extra=1: no such setting here"),
    ],
)
def test_settings_are_checked_before_any_work(override, message):
    with pytest.raises(SettingError, match=re.escape(message)):
        checked(override)
