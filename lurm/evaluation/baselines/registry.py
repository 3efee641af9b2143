"""The names of all methods, and how each is made; importing this loads neither torch nor gensim.

In: a name, a `Budget`, a seed. Out: a `Method` or a `SupervisedMethod`, not yet fitted. What a method computes, and after which paper, is
said in its family's module.
"""

import importlib
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

from lurm.errors import ConfigError
from lurm.evaluation.baselines.method import AnyMethod, Budget, JointMethod, Method

Factory = Callable[[Budget, int], AnyMethod]
D_SWEEP = (100, 300, 500, 1_000, 3_000, 10_000)
# What the rows with -searched try: fields of the budget, or settings of the method; the first of each is what the row without it has.
LEARNING_RATES = {"learning_rate": (1e-3, 3e-4, 3e-3)}
CANDIDATES = {
    "tfidf": {"ngrams": (2, 1, 3), "min_df": (3, 1, 10), "sublinear": (True, False)},
    "word2vec": {"passes": (10, 30), "window": (5, 15)},
    "doc2vec-dbow": {"passes": (20, 60), "window": (5, 15)},
    **dict.fromkeys(("sumn", "ptum-hsa", "userbert", "userbert-ml", "cp", "coles", "wide-deep-mtl", "lstm-mtl", "transformer-mtl"), LEARNING_RATES),
}
HISTORIES = {"2-months": 2, "1-year": 12, "2-years": 24}  # months before the cut


def _make(module: str, class_name: str, name: str, settings: dict, budget: Budget, seed: int, **tried: object) -> AnyMethod:
    made = getattr(importlib.import_module(f"lurm.evaluation.baselines.{module}"), class_name)
    of_budget = {field.name: tried.pop(field.name) for field in fields(Budget) if field.name in tried}
    return made(name=name, budget=replace(budget, **of_budget), seed=seed, **settings, **tried)


def _make_searched(name: str, inner: Callable[..., Method], budget: Budget, seed: int) -> Method:
    from lurm.evaluation.baselines.searched import Searched

    return Searched(f"{name}-searched", partial(inner, budget, seed), CANDIDATES[name], seed)


def _make_joint(name: str, inner: Factory, budget: Budget, seed: int) -> JointMethod:
    from lurm.evaluation.baselines.joint import Joint

    return Joint(name, budget, seed, inner(budget, seed))


METHODS: dict[str, Factory] = {}
SUPERVISED: set[str] = set()  # the names whose methods are SupervisedMethods
JOINT: set[str] = set()  # the names whose methods are JointMethods


def _add(module: str, class_name: str, name: str, /, supervised: bool = False, **settings: object) -> None:
    METHODS[name] = partial(_make, module, class_name, name, settings)
    if supervised:
        SUPERVISED.add(name)


def make_method(name: str, budget: Budget, seed: int) -> AnyMethod:
    """A method by name; raises ConfigError for a name that there is not."""
    if name not in METHODS:
        raise ConfigError(f"Expected the name of a method, got {name!r}; known are {', '.join(METHODS)}.")
    return METHODS[name](budget, seed)


# What practitioners would pick.
_add("word_counts", "TfIdf", "tfidf")
_add("word_counts", "TfIdf", "tfidf-svd", svd=256)
_add("word_counts", "TfIdf", "tfidf-activity", activity=True)
_add("activity", "Counts", "counts")
_add("activity", "BoostedCounts", "counts-gbdt", supervised=True)
_add("popularity", "Popularity", "popularity", supervised=True)
_add("lurm_bags", "Bag", "bag-svd", svd=128)
_add("lurm_bags", "ItemMean", "item-mean")

# LURM and its ablations.
_add("lurm_bags", "Bag", "lurm-bag")
_add("lurm_bags", "Bag", "lurm-bag-idf", idf=True)
for _interests in D_SWEEP:
    _add("lurm_bags", "Bag", f"lurm-bag-d{_interests}", n_interests=_interests)
_add("lurm_bags", "Bag", "lurm-bag-soft", soft=True)
_add("lurm_smen", "Lurm", "lurm")
_add("lurm_smen", "Lurm", "lurm-memory", activity=False)  # a memory of interests alone
_add("lurm_smen", "Lurm", "lurm-smen", memory=False)  # the paper's module, and below it the paper's ablations of it
_add("lurm_smen", "Lurm", "lurm-literal", memory=False, from_centroids=False)
_add("lurm_smen", "Lurm", "lurm-months", memory=False, scales="month")
_add("lurm_smen", "Lurm", "lurm-years", memory=False, scales="year")
_add("lurm_smen", "Lurm", "lurm-1x128", memory=False, n_anchors=1)
_add("lurm_smen", "Lurm", "lurm-1x1280", memory=False, n_anchors=1, dim=1_280)
_add("lurm_smen", "Lurm", "lurm-untrained", memory=False, trained=False)
_add("lurm_smen", "Lurm", "lurm-soft", memory=False, soft=True)
for _interests in D_SWEEP:
    _add("lurm_smen", "Lurm", f"lurm-d{_interests}", n_interests=_interests)
for _suffix, _months in HISTORIES.items():
    _add("lurm_smen", "Lurm", f"lurm-{_suffix}", last_months=_months)
    _add("lurm_bags", "Bag", f"lurm-bag-{_suffix}", last_months=_months)

# SUMN and its variants.
_add("sumn", "Sumn", "sumn")
_add("sumn", "Sumn", "sumn-ae", target="same")
_add("sumn", "Sumn", "sumn-id", target="who")
_add("sumn", "Sumn", "sumn-mean", pooling="mean")
_add("sumn", "Sumn", "sumn-max", pooling="max")

# PTUM: frozen, then fine-tuned; each task alone and none, on the backbone of the paper's ablation.
for _backbone in ("hsa", "han", "hura"):
    _add("ptum", "Ptum", f"ptum-{_backbone}", backbone=_backbone)
    _add("supervised", "SupervisedSequences", f"ptum-{_backbone}-tuned", supervised=True, architecture=_backbone, pretraining="ptum")
for _task, _other in (("mbp", "nbp"), ("nbp", "mbp")):
    _add("ptum", "Ptum", f"ptum-hsa-{_task}", backbone="hsa", **{_other: False})
    _add("supervised", "SupervisedSequences", f"ptum-hsa-{_task}-tuned", supervised=True, architecture="hsa", pretraining=f"ptum-{_task}")
_add("ptum", "Ptum", "ptum-hsa-untrained", backbone="hsa", mbp=False, nbp=False)

# Supervised over title sequences; hsa is NRMS. With shares of the labels, for the gain of pre-training when labels are few.
for _architecture in ("textcnn", "han", "hsa", "hura", "naml", "lstur", "gru4rec", "nativectr", "bert4rec"):
    _add("supervised", "SupervisedSequences", _architecture, supervised=True, architecture=_architecture)
for _share in (20, 50):
    _add("supervised", "SupervisedSequences", f"hsa-{_share}", supervised=True, architecture="hsa", label_share=_share / 100)
    _add("supervised", "SupervisedSequences", f"ptum-hsa-tuned-{_share}", supervised=True, architecture="hsa", pretraining="ptum",
         label_share=_share / 100)  # fmt: skip

# UserBERT (contrastive) with its tasks and negatives; CP with its operations; CoLES.
_add("userbert", "UserBert", "userbert")
for _negatives in ("random", "hardest"):
    _add("userbert", "UserBert", f"userbert-{_negatives}", negatives=_negatives)
for _name, _tasks in (("mbp", ("mbp",)), ("bsm", ("bsm",)), ("nbp", ("nbp",)), ("mbp-nbp", ("mbp", "nbp"))):
    _add("userbert", "UserBert", f"userbert-{_name}", tasks=_tasks)
_add("augmentation", "Augmented", "cp")
for _operation in ("crop", "mask", "reorder"):
    _add("augmentation", "Augmented", f"cp-{_operation}", operations=(_operation,))
for _start in ("userbert", "cp"):
    _add("supervised", "SupervisedSequences", f"{_start}-tuned", supervised=True, architecture="hsa", pretraining=_start)
_add("coles", "Coles", "coles")

# UserBERT (masked multi-label), its multi-task baselines, and vectors of words and documents.
_add("masked_multi_label", "MaskedMultiLabel", "userbert-ml")
_add("masked_multi_label", "MaskedMultiLabelTuned", "userbert-ml-tuned", supervised=True)
for _kind in ("wide-deep", "lstm", "transformer"):
    _add("multi_task", "MultiTask", f"{_kind}-mtl", kind=_kind)
    _add("multi_task", "MultiTaskTuned", f"{_kind}-mtl-tuned", supervised=True, kind=_kind)
for _kind in ("word2vec", "doc2vec-dbow", "doc2vec-dm"):
    _add("word_vectors", "WordVectors", _kind, kind=_kind)

# Again, with what a search on the history itself has chosen.
for _name in CANDIDATES:
    METHODS[f"{_name}-searched"] = partial(_make_searched, _name, METHODS[_name])

# Everything that is trained on labels, on those of all tasks together: a training a fifth of the users, not one for every fold of every task.
for _name in sorted(SUPERVISED - {"counts-gbdt", "popularity"}):
    METHODS[f"{_name}-joint"] = partial(_make_joint, f"{_name}-joint", METHODS[_name])
    JOINT.add(f"{_name}-joint")
