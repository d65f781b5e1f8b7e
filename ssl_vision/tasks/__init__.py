"""Evaluation tasks: add one file and one line here to add a task.

Each task asks a run of frozen weights for features and gives a result, a thin layer over pure
functions of `evaluation/`: it names the protocol and draws its plots.
"""

from ssl_vision.tasks import (
    binocular,
    clustering,
    correspond,
    dense_knn,
    depth,
    few_shot,
    finetune,
    knn,
    label_curve,
    lidar,
    linear,
    logreg,
    map,
    metrics,
    n_way,
    parts,
    retrieval,
    segment,
    svm,
)
from ssl_vision.tasks.task import Task

TASKS: dict[str, Task] = {
    "knn": knn.TASK,
    "linear": linear.TASK,
    "logreg": logreg.TASK,
    "finetune": finetune.TASK,
    "few_shot": few_shot.TASK,
    "label_curve": label_curve.TASK,
    "svm": svm.TASK,
    "n_way": n_way.TASK,
    "parts": parts.TASK,
    "retrieval": retrieval.TASK,
    "clustering": clustering.TASK,
    "metrics": metrics.TASK,
    "lidar": lidar.TASK,
    "map": map.TASK,
    "segment": segment.TASK,
    "dense_knn": dense_knn.TASK,
    "depth": depth.TASK,
    "correspond": correspond.TASK,
    "binocular": binocular.TASK,
}
