"""The table of commands: add one entry here to add a command.

Usage, help, shell completion and the thin doors in `tools/` are derived from it. Nothing heavy is
imported here: `ssl-vision --help` answers at once, and a command's module is imported to run it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command.

    Attributes:
        run: `module:function`; takes the arguments as typed and returns an exit status or None.
        summary: What it does, in half a line.
        words: Its words, as the usage shows them.
        meanings: Word -> what it is.
        settings: `module:Class` of its `key=value` settings.
        first: Keys that everybody sets, which help shows first.
        examples: Lines that run as they stand.
        parts: Sub-commands by name, where its first word is one.
    """

    run: str
    summary: str
    words: str = ""
    meanings: Mapping[str, str] = field(default_factory=dict)
    settings: str | None = None
    first: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    parts: "Mapping[str, Command]" = field(default_factory=dict)


_WEIGHTS = "run folder, export folder, zoo:NAME or timm:NAME"
_ROOM = "ssl_vision.commands"


def _of_zoo(summary: str, words: str = "", settings: str | None = None) -> Command:
    place = None if settings is None else f"{_ROOM}.zoo:{settings}"
    return Command(run=f"{_ROOM}.zoo:run_zoo", summary=summary, words=words, settings=place)


_ZOO = {
    "list": _of_zoo("what there is", "[method=NAME] [license=NAME] [status=NAME]", "ListSettings"),
    "show": _of_zoo("an entry: origin, licence, published numbers", "NAME"),
    "download": _of_zoo("fetch files", "NAME ... [file=backbone|full|linear]", "FileSettings"),
    "convert": _of_zoo(
        "an official file as a folder that timm loads",
        "FILE|zoo:NAME OUT [KEY=VALUE ...]",
        "ConvertSettings",
    ),
    "pin": _of_zoo("write down the SHA-256 of files in the index", "[NAME ...]"),
    "forget": _of_zoo("trust the next content of a file", "NAME [file=]", "FileSettings"),
    "table": _of_zoo("write the table of model_zoo/README.md"),
    "reproduce": _of_zoo(
        "train a model of this project again and compare", "NAME [run_dir=]", "ReproduceSettings"
    ),
    "adopt": _of_zoo(
        "take the export of a run into model_zoo/",
        "RUN NAME recipe=configs/... [other_seeds=95.1,94.8]",
        "AdoptSettings",
    ),
}

_FIRST_OF_TRAIN = (
    "data.path",
    "run_dir",
    "trainer.epochs",
    "data.global_batch_size",
    "backbone.name",
    "method.name",
    "init_from",
    "seed",
)

COMMANDS: dict[str, Command] = {
    "train": Command(
        run=f"{_ROOM}.train:run_train",
        summary="pretrain, or train with labels",
        words="RECIPE [MORE.yaml ...] [KEY=VALUE ...]",
        meanings={
            "RECIPE": "name of a recipe that comes with the package, a YAML file, or auto: chosen "
            "by images and machine",
            "MORE.yaml": "files laid over it, left to right",
        },
        settings="ssl_vision.config:TrainConfig",
        first=_FIRST_OF_TRAIN,
        examples=(
            "ssl-vision train dino/tiny_cpu data.path=digits run_dir=runs/first",
            "ssl-vision train barlow_twins/tiny_cpu data.path=photos/ trainer.epochs=5",
            "ssl-vision train auto data.path=photos/ run_dir=runs/photos",
            "ssl-vision train dino/small data.path=photos/ trainer.epochs=auto data.mean=auto",
            "ssl-vision train mae/tiny_cpu --help",
        ),
    ),
    "anneal": Command(
        run=f"{_ROOM}.anneal:run_anneal",
        summary="a branch of a run whose rate falls to its end; the run stays as it is",
        words="RUN [OUT] [steps=N] [KEY=VALUE ...]",
        meanings={"RUN": "run folder, also of a run under way", "OUT": "folder of the branch"},
        settings=f"{_ROOM}.anneal:AnnealSettings",
        examples=("ssl-vision anneal runs/first", "ssl-vision anneal runs/first out/ steps=500"),
    ),
    "recipes": Command(
        run=f"{_ROOM}.recipes:run_recipes",
        summary="what recipes there are; one with every setting",
        words="[RECIPE]",
        meanings={"RECIPE": "show its header and each setting: value, default, meaning"},
        examples=("ssl-vision recipes", "ssl-vision recipes mae/tiny_cpu"),
    ),
    "evaluate": Command(
        run=f"{_ROOM}.evaluate:run_evaluate",
        summary="score weights: kNN, probes, metrics",
        words="WEIGHTS [WEIGHTS ...] data.path=DIR [tasks=knn,linear,metrics] [KEY=VALUE ...]",
        meanings={"WEIGHTS": _WEIGHTS},
        settings="ssl_vision.config:EvalConfig",
        first=("data.path", "tasks", "baselines", "out", "seed"),
        examples=(
            "ssl-vision evaluate runs/first data.path=digits",
            "ssl-vision evaluate runs/a runs/b data.path=labelled/ tasks=knn,logreg baselines=true",
        ),
    ),
    "prepare": Command(
        run=f"{_ROOM}.prepare:run_prepare",
        summary="pack images, or pairs of them, into one checked file",
        words="SOURCE OUT.beton [KEY=VALUE ...]",
        meanings={
            "SOURCE": "folder of images, a named data set, or a list or folder of pairs",
            "OUT.beton": "file to write",
        },
        settings="ssl_vision.commands.prepare:PrepareConfig",
        examples=(
            "ssl-vision prepare photos/ photos.beton mode=proportion",
            "ssl-vision prepare pairs.txt pairs.beton modality=pairs",
        ),
    ),
    "pairs": Command(
        run=f"{_ROOM}.pairs:run_pairs",
        summary="pairs of images of one scene, for CroCo",
        words="SOURCE OUT.txt [KEY=VALUE ...]",
        meanings={
            "SOURCE": "folder of renders with transforms.json and depth, or of photos",
            "OUT.txt": "list of pairs to write",
        },
        settings="ssl_vision.data.pairs.make:PairsConfig",
        examples=(
            "ssl-vision pairs renders/ pairs.txt",
            "ssl-vision pairs photos/ pairs.txt min_overlap=0.2 max_overlap=0.8",
        ),
    ),
    "extract": Command(
        run=f"{_ROOM}.extract:run_extract",
        summary="networks of other sizes out of a POA run",
        words="RUN [list=true] [size=W,D ...] [all=true] [max_params=N] [OUT]",
        meanings={"RUN": "run folder of method poa", "OUT": "folder for the exported networks"},
        settings=f"{_ROOM}.extract:ExtractSettings",
        examples=(
            "ssl-vision extract runs/poa list=true",
            "ssl-vision extract runs/poa max_params=10e6 small/",
        ),
    ),
    "export": Command(
        run=f"{_ROOM}.export:run_export",
        summary="backbone for others, verified by reloading",
        words="WEIGHTS OUT [formats=timm,onnx,torch_export] [KEY=VALUE ...]",
        meanings={"WEIGHTS": _WEIGHTS, "OUT": "folder to write"},
        settings=f"{_ROOM}.export:ExportSettings",
        examples=("ssl-vision export runs/first out/ formats=timm,onnx",),
    ),
    "embed": Command(
        run=f"{_ROOM}.embed:run_embed",
        summary="features as .npy files with an index",
        words="WEIGHTS data.path=DIR OUT [patches=true] [KEY=VALUE ...]",
        meanings={"WEIGHTS": _WEIGHTS, "OUT": "folder to write"},
        settings=f"{_ROOM}.embed:EmbedSettings",
        examples=("ssl-vision embed runs/first data.path=photos/ features/",),
    ),
    "predict": Command(
        run=f"{_ROOM}.predict:run_predict",
        summary="classes and probabilities of images, by a trained classifier",
        words="WEIGHTS IMAGES [IMAGES ...] OUT.csv [top=3] [KEY=VALUE ...]",
        meanings={
            "WEIGHTS": "supervised or fine-tuned run, its export, or timm:NAME",
            "IMAGES": "image files, folders, .beton files or named data sets",
            "OUT.csv": "table to write: name, class, probability, ..., error",
        },
        settings=f"{_ROOM}.predict:PredictSettings",
        examples=(
            "ssl-vision predict runs/pets photos/ predictions.csv",
            "ssl-vision predict timm:resnet18.a1_in1k cat.jpg dog.jpg out.csv top=5",
        ),
    ),
    "visualize": Command(
        run=f"{_ROOM}.visualize:run_visualize",
        summary="attention maps, features as colours, reconstructions",
        words="WEIGHTS IMAGE ... OUT [what=attention,features,reconstruction] [KEY=VALUE ...]",
        meanings={
            "WEIGHTS": _WEIGHTS,
            "IMAGE": "image files, folders or named data sets",
            "OUT": "folder for the pictures",
        },
        settings=f"{_ROOM}.visualize:VisualizeSettings",
        examples=("ssl-vision visualize runs/first photos/ pictures/",),
    ),
    "search": Command(
        run=f"{_ROOM}.search:run_search",
        summary="index images (FAISS) and find those like a given one",
        words="WEIGHTS INDEX [IMAGE ...] [data.path=DIR] [k=5] [out=FILE.csv]",
        meanings={
            "WEIGHTS": _WEIGHTS,
            "INDEX": "folder of the index; data.path=DIR makes it, without it is loaded",
            "IMAGE": "images to search with: files, folders, named data sets",
        },
        settings=f"{_ROOM}.search:SearchSettings",
        examples=(
            "ssl-vision search runs/first data.path=photos/ photos.index",
            "ssl-vision search runs/first photos.index cat.jpg k=10 out=like_cat.csv",
        ),
    ),
    "duplicates": Command(
        run=f"{_ROOM}.duplicates:run_duplicates",
        summary="groups of images that are nearly the same",
        words="WEIGHTS IMAGES [IMAGES ...] OUT.csv [threshold=0.95] [KEY=VALUE ...]",
        meanings={
            "WEIGHTS": _WEIGHTS,
            "IMAGES": "image files, folders, .beton files or named data sets",
            "OUT.csv": "table to write: group, name, nearest, similarity",
        },
        settings=f"{_ROOM}.duplicates:DuplicatesSettings",
        examples=("ssl-vision duplicates runs/first photos/ duplicates.csv threshold=0.98",),
    ),
    "compare": Command(
        run=f"{_ROOM}.compare:run_compare",
        summary="runs or evaluations side by side",
        words="RUN RUN [RUN ...] [out=FOLDER]",
        meanings={"RUN": "run folder, or folder with results.json of an evaluation"},
        settings=f"{_ROOM}.compare:CompareSettings",
        examples=(
            "ssl-vision compare runs/a runs/b",
            "ssl-vision compare runs/a/evaluation runs/b/evaluation out=pages/",
        ),
    ),
    "zoo": Command(
        run=f"{_ROOM}.zoo:run_zoo",
        summary="weights by name; official files to timm",
        words="list|show|download|convert|pin|forget|reproduce|... [ARGUMENT ...]",
        meanings={"list": "what there is; `ssl-vision zoo help` shows each with its arguments"},
        examples=("ssl-vision zoo list", "ssl-vision zoo convert checkpoint.pth out/ key=student"),
        parts=_ZOO,
    ),
    "quickstart": Command(
        run=f"{_ROOM}.quickstart:run_quickstart",
        summary="train a recipe and compare with what costs nothing",
        words="RECIPE [KEY=VALUE ...]",
        meanings={"RECIPE": "as of train"},
        settings="ssl_vision.config:TrainConfig",
        first=_FIRST_OF_TRAIN,
        examples=("ssl-vision quickstart barlow_twins/tiny_cpu data.path=digits",),
    ),
    "doctor": Command(
        run=f"{_ROOM}.doctor:run_doctor",
        summary="what is installed, what is missing, how to install it",
        examples=("ssl-vision doctor",),
    ),
}
