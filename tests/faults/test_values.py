"""Settings out of their range, misspelt, of another type, or of files that cannot be written."""

from collections.abc import Callable

from faulty import Case, cases
from faulty_edits import content, cut, nothing, text

YAML = "small.yaml"


def told(inputs: str, *asked: tuple[str, tuple[str, ...]]) -> list[Case]:
    """Words of a command line that must be refused, each with words of the refusal."""
    return [Case(f"{inputs}: {options}", inputs, nothing, says, options) for options, says in asked]


OF_TOOLS = [
    *told(
        "sample",
        ("--count 0", ("count", "0")),
        ("--count -3", ("count", "-3")),
        ("--count many", ("count", "many")),
        ("--requests -1", ("requests", "-1")),
        ("--size 3", ("size", "3")),
        ("--size 1.5", ("size", "1.5")),
        ("--spacing_mm 0", ("spacing_mm", "0")),
        ("--spacing_mm .nan", ("spacing_mm", "nan")),
        ("--spacing_mm .inf", ("spacing_mm", "inf")),
        ("--seed -1", ("seed", "-1")),
        ("--colour blue", ("colour",)),
        ("--out in", ("in", "exists")),
        ("--out in/nothing.txt/out", ("nothing.txt",)),
    ),
    *told("projections", ("--out in", ("in", "exists")), ("--seed 0", ("seed",))),
    *told(
        "store",
        ("--csv none.csv", ("none.csv",)),
        ("--csv ../nowhere/nodules.csv", ("nowhere",)),
        ("--columns '{colour: x}'", ("colour",)),
        ("--columns '{mask: outline}'", ("outline",)),
        ("--columns mask", ("columns",)),
        ("--select 'malignancy >'", ("malignancy >",)),
        ("--select 'colour > 3'", ("colour",)),
        ("--select 'malignancy > 99'", ("malignancy > 99",)),
        ("--select malignancy", ("malignancy",)),
        ("--select '@pd.io.common.os.system(\"touch beside/owned\")'", ("select",)),
        ("--select 'nodule_id.to_csv(\"beside/owned\")'", ("select",)),
        ("--select '__import__(\"os\").getcwd() == 1'", ("select",)),
        ("--select 'malignancy ** 9 ** 9 ** 9 > 1'", ("select",)),
        (f"--select '{'(' * 300}malignancy > 1{')' * 300}'", ("select",)),
        ("--out in/nodules.csv", ("in/nodules.csv",)),
        ("--nothing", ("nothing",)),
    ),
    *told(
        "volumes",
        ("--size 0", ("size", "0")),
        ("--size -5", ("size", "-5")),
        ("--spacing_mm 0", ("spacing_mm", "0")),
        ("--spacing_mm .inf", ("spacing_mm", "inf")),
        ("--workers 0", ("workers", "0")),
        ("--separate voxels", ("separate", "voxels")),
        ("--table none.csv", ("none.csv",)),
        ("--table in", ("in",)),
        ("--out in", ("in",)),
        ("--out in/table.csv", ("table.csv",)),
        ("--whole maybe", ("whole", "maybe")),
    ),
    *told("jsrt", ("--workers 0", ("workers", "0")), ("--root none", ("none",))),
    *told(
        "chestxray14",
        ("--workers 0", ("workers", "0")),
        ("--root none", ("none",)),
        ("--entries none.csv", ("none.csv",)),
        ("--boxes none.csv", ("none.csv",)),
    ),
    *told(
        "chest",
        ("--per_study 0", ("per_study", "0")),
        ("--diameter_mm [9,3]", ("diameter_mm", "9")),
        ("--diameter_mm [0,3]", ("diameter_mm", "0")),
        ("--diameter_mm [.nan,.nan]", ("diameter_mm", "nan")),
        ("--diameter_mm [90,99]", ("90",)),
        ("--wall_mm -1", ("wall_mm", "-1")),
        ("--wall_mm .nan", ("wall_mm", "nan")),
        ("--hilum_mm -1", ("hilum_mm", "-1")),
        ("--subtypes '{cavity: 1}'", ("cavity",)),
        ("--subtypes '{solid: -1}'", ("solid", "-1")),
        ("--subtypes '{solid: 0}'", ("solid", "0")),
        ("--subtypes '{solid: .nan}'", ("solid", "nan")),
        ("--subtypes '{}'", ("subtypes",)),
        ("--lungs in", ("in",)),
        ("--avoid none.csv", ("none.csv",)),
        ("--shapes none", ("none",)),
        ("--studies [none.mha]", ("none.mha",)),
        ("--studies []", ("studies",)),
        ("--seed -1", ("seed", "-1")),
    ),
    *told(
        "radiographs",
        ("--per_radiograph 0", ("per_radiograph", "0")),
        ("--copies 0", ("copies", "0")),
        ("--fractions [0.5,0.1,0.1]", ("fractions",)),
        ("--fractions [2,-1,0]", ("fractions",)),
        ("--split dev", ("split", "train")),
        ("--diameter_mm [9,3]", ("9",)),
        ("--background_radiographs.root none", ("none",)),
        ("--background_radiographs NoCollection", ("NoCollection",)),
        ("--seed -1", ("seed", "-1")),
    ),
    *told(
        "runs",
        ("--reference other", ("other", "plain")),
        ("--runs [in/full-1]", ("plain",)),
        ("--runs [in/none-1,in/plain-1]", ("none-1",)),
        ("--runs [in]", ("in", "seed")),
        ("--out in/full-1/nodules.csv", ("nodules.csv",)),
    ),
    *told(
        "memorization",
        ("--shift_voxels -1", ("shift_voxels", "-1")),
        ("--pairs 0", ("pairs", "0")),
        ("--window [400,-1000]", ("window", "400")),
        ("--window [.nan,0]", ("window", "nan")),
        ("--roi.size 0", ("ROI", "0")),
        ("--roi.spacing_mm .nan", ("nan",)),
        ("--fractions [1,1,1]", ("fractions",)),
        ("--real.root none", ("none",)),
    ),
    *told(
        "realism",
        ("--pictures 0", ("pictures", "0")),
        ("--roi.size -1", ("ROI", "-1")),
        ("--window [0,0]", ("window",)),
        ("--window [.nan,0]", ("window", "nan")),
        ("--seed -1", ("seed", "-1")),
    ),
]


@cases(OF_TOOLS)
def test_values_of_tools_are_checked(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


MODEL, DATA = "--model.init_args", "--data.init_args"
OF_TRAINING = [
    *told(
        "autoencoder",
        (f"{DATA}.root none", ("none",)),
        (f"{DATA}.csv none.csv", ("none.csv",)),
        (f"{DATA}.batch_size 0", ("batch_size", "0")),
        (f"{DATA}.num_workers -1", ("num_workers", "-1")),
        (f"{DATA}.fractions [0.5,0,0]", ("fractions",)),
        (f"{DATA}.fractions [0,0,1]", ("train",)),
        (f"{DATA}.augmented_copies 0", ("augmented_copies", "0")),
        (f"{DATA}.colour 3", ("colour",)),
        (f"{DATA}.select 'malignancy >'", ("malignancy >",)),
        (f"{DATA}.seed 3", ("seed",)),
        (f"{MODEL}.window [400,-1000]", ("window", "400")),
        (f"{MODEL}.window [0]", ("window",)),
        (f"{MODEL}.roi.size 0", ("ROI", "0")),
        (f"{MODEL}.roi.size 7", ("7",)),
        (f"{MODEL}.roi.spacing_mm -1", ("ROI", "-1")),
        (f"{MODEL}.learning_rate quick", ("learning_rate", "quick")),
        (f"{MODEL}.codec.channels []", ("channels",)),
        (f"{MODEL}.codec.channels [8,9]", ("channels",)),
        (f"{MODEL}.codec.spatial_dims 4", ("spatial_dims", "4")),
        (f"{MODEL}.colour 3", ("colour",)),
        ("--model NoModel", ("NoModel",)),
        ("--data NoData", ("NoData",)),
        ("--trainer.max_stepz 1", ("max_stepz",)),
        ("--trainer.max_steps -7", ("max_steps", "-7")),
        ("--trainer.devices 0", ("trainer.devices", "0")),
        ("--trainer.precision 7-bit", ("precision", "32-true")),
        ("--trainer.accelerator abacus", ("abacus",)),
        ("--seed_everything true", ("seed_everything",)),
        ("--seed_everything -1", ("-1",)),
        ("--config none.yaml", ("none.yaml",)),
        ("--ckpt_path none.ckpt", ("none.ckpt",)),
        ("--trainer.default_root_dir in/small.yaml", ("in/small.yaml",)),
    ),
    *told(
        "diffusion",
        (f"{MODEL}.autoencoder none.ckpt", ("none.ckpt",)),
        (f"{MODEL}.autoencoder null", ("autoencoder",)),
        (f"{MODEL}.unet.channels [7,9]", ("channels",)),
        (f"{MODEL}.process.prediction w", ("prediction", "w")),
        (f"{MODEL}.ema_decay 2", ("ema_decay", "2")),
        (f"{DATA}.predict_csv none.csv", ("none.csv",)),
    ),
    *told(
        "adapters",
        (f"{MODEL}.init_from null", ("init_from", "ckpt_path")),
        (f"{MODEL}.strengths '{{calm: 1}}'", ("calm",)),
        (f"{MODEL}.strengths '{{calcified: .nan}}'", ("nan",)),
        (f"{MODEL}.adapters '{{calcified: in/adapters/calcified}}'", ("two or more",)),
        (f"{MODEL}.merging NoMerging", ("NoMerging",)),
    ),
    *told(
        "classifier",
        (f"{MODEL}.characteristics []", ("characteristic",)),
        (f"{MODEL}.characteristics [purple]", ("purple",)),
        (f"{DATA}.per_real -1", ("per_real", "-1")),
        (f"{DATA}.per_real 100", ("synthetic",)),
        (f"{DATA}.split_seed 1", ("split_seed",)),
        (f"{DATA}.synthetic.init_args.root none", ("none",)),
    ),
    *told(
        "segmenter",
        (f"{DATA}.real.init_args.root none", ("none",)),
        (f"{MODEL}.window [1,0]", ("window",)),
        (f"{DATA}.without_real true", ("without_real",)),
    ),
    *told(
        "detector",
        (f"{DATA}.radiograph_size 0", ("radiograph_size", "0")),
        (f"{DATA}.radiograph_spacing_mm 0", ("radiograph_spacing_mm", "0")),
        (f"{MODEL}.encoder nothing", ("nothing",)),
        (f"{DATA}.batch_size 0", ("batch_size", "0")),
    ),
    *told("validate", (f"{DATA}.root none", ("none",)), ("--ckpt_path none", ("none",))),
    *told("test", (f"{DATA}.root none", ("none",)), ("--ckpt_path none", ("none",))),
]


@cases(OF_TRAINING)
def test_values_of_training_are_checked(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)


CONFIGS = [
    Case(f"a config: {name}", "autoencoder", spoil, ("small.yaml",) if named else ())
    for name, spoil, named in (
        ("empty", text(YAML, ""), False),
        ("a list", text(YAML, "- a\n- b\n"), True),
        ("an open bracket", text(YAML, "model: {a: 1\n"), True),
        ("tabs", text(YAML, "model:\n\ta: 1\n"), True),
        ("no text", content(YAML, lambda whole: b"\xff\xfe" + whole), True),
        ("a tag that runs code", text(YAML, "model: !!python/object/apply:os.getcwd []\n"), True),
        ("a doubled anchor that grows", text(YAML, "a: &a [x]\nb: *c\n"), True),
        ("cut in the middle of a word", cut(YAML, 0.47), False),
        ("a misspelt section", text(YAML, "modle: {}\n"), False),
    )
][1:-2]


@cases(CONFIGS)
def test_configs_that_are_none_are_refused(case: Case, attempt: Callable[[Case], None]) -> None:
    attempt(case)
