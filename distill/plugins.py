"""Names to objects: one table of short names, and dotted paths for a user's own class or function.

`name: hybrid_cf` looks up a string in `TABLES` and imports it when it is first needed;
`name: my_package.module:MyStudent` imports the user's own. The other keys of the section are the
object's own arguments, checked against its signature before anything heavy starts.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any

from distill.errors import UserError

TABLES: dict[str, dict[str, str]] = {
    "teacher": {
        "text_tower": "teachers.text_tower:TextTower",
        "text_space": "teachers.text_space:TextSpace",
        "ease": "teachers.ease:Ease",
        "itemknn": "teachers.itemknn:ItemKNN",
        "ials": "teachers.ials:ImplicitALS",
        "lightgcn": "teachers.lightgcn:LightGCN",
        "sasrec": "teachers.sasrec:SASRec",
        "cross_encoder": "teachers.cross_encoder:CrossEncoder",
        "gpt_rerank": "teachers.gpt_rerank:GPTRerank",
        "popularity": "teachers.popularity:Popularity",
        "bert": "teachers.sequence_body:Bert",
        "gpt": "teachers.sequence_body:Gpt",
    },
    "student": {
        "hybrid_cf": "students.hybrid_cf:HybridCF",
        "mf": "students.mf:MatrixFactorisation",
        "mlp_only": "students.mlp_only:MLPOnly",
        "sasrec_small": "students.sasrec_small:SASRecSmall",
        "gru4rec_small": "students.gru4rec_small:GRU4RecSmall",
        "two_tower": "students.two_tower:TwoTower",
        "lightgcn": "students.lightgcn:LightGCN",
        "neumf": "students.neumf:NeuMF",
        "popularity": "students.closed_form:Popularity",
        "itemknn": "students.closed_form:ItemKNN",
        "ease": "students.closed_form:Ease",
        "ials": "students.closed_form:ImplicitALS",
    },
    "loss": {
        "cross_entropy": "distill.objectives.hard:cross_entropy",
        "listwise_kl": "distill.objectives.listwise:listwise_kl",
        "stratified_kl": "distill.objectives.listwise:stratified_kl",
        "sampled_softmax": "distill.objectives.hard:sampled_softmax",
        "in_batch_softmax": "distill.objectives.hard:in_batch_softmax",
        "bpr": "distill.objectives.hard:bpr",
        "bce": "distill.objectives.hard:bce",
        "soft_bce": "distill.objectives.pointwise:soft_bce",
        "rank_distillation": "distill.objectives.pointwise:rank_distillation",
        "rce": "distill.objectives.rejuvenated:rce",
        "relaxed_listmle": "distill.objectives.ranked:relaxed_listmle",
        "margin_mse": "distill.objectives.pairwise:margin_mse",
        "soft_bpr": "distill.objectives.pairwise:soft_bpr",
        "unkd": "distill.objectives.pairwise:unkd",
        "feature_fitnet": "distill.objectives.features:FeatureFitnet",
        "feature_experts": "distill.objectives.features:FeatureExperts",
        "feature_frequency": "distill.objectives.frequency:FeatureFrequency",
        "topology": "distill.objectives.topology:Topology",
        "contrastive_alignment": "distill.objectives.alignment:ContrastiveAlignment",
        "profile_guide": "distill.objectives.alignment:ProfileGuide",
        "neighbour_self_distillation": "distill.objectives.neighbours:NeighbourSelfDistillation",
        "mutual": "distill.objectives.mutual:Mutual",
    },
    "paraphrase": {
        "word_dropout": "distill.data.paraphrase:word_dropout",
        "back_translation": "teachers.back_translation:back_translation",
        "apertium": "distill.data.paraphrase:apertium",
    },
}


def nearest(word: str, choices: Iterable[str]) -> str:
    """A hint such as " (did you mean 'ndcg@10'?)", or the list of choices when nothing is close."""
    names = [str(c) for c in choices]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else f" (known: {', '.join(sorted(names))})"


def resolve(kind: str, name: str) -> Callable[..., Any]:
    """Imports the object called `name` of the given kind ("teacher", "student", "loss").

    Raises:
        UserError: The name is unknown, or its module or attribute can't be imported.
    """
    target = name if ":" in name else TABLES[kind].get(name)
    if target is None:
        raise UserError(f"Unknown {kind} '{name}'{nearest(name, TABLES[kind])}. Your own is 'package.module:Name'.")
    module, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        raise UserError(f"{kind} '{name}' is no place to import from; expected 'package.module:Name'.")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise UserError(
                f"{kind} '{name}': there is no module '{module}'. Is it installed or on PYTHONPATH?"
            ) from error
        raise UserError(f"{kind} '{name}' needs the package '{error.name}', which is not installed.") from error
    if not hasattr(found, attribute):
        raise UserError(f"{kind} '{name}': module '{module}' has no '{attribute}'{nearest(attribute, vars(found))}.")
    return getattr(found, attribute)


def matches(value: Any, hint: Any) -> bool:
    """Whether a YAML value fits a type hint (unions, lists, tuples, dicts and the plain types; others pass)."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(matches(value, arg) for arg in args)
    if hint is None or hint is type(None):
        return value is None
    if origin is typing.Literal:
        return value in args
    if origin in (list, tuple):
        inner = args[0] if args else Any
        return isinstance(value, list | tuple) and all(matches(v, inner) for v in value)
    if origin is dict or hint is dict:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint in (str, bool):
        return isinstance(value, hint)
    return True


def describe(hint: Any) -> str:
    """A type hint in the words of an error message: "int", "list[float]", "one of 'fp32', 'bf16'"."""
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(repr(choice) for choice in typing.get_args(hint))}"
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")


def check_arguments(kind: str, name: str, arguments: dict[str, Any], given_by_program: Iterable[str] = ()) -> None:
    """Checks a section's keys and types against the signature of the object it names.

    Args:
        kind: "teacher", "student" or "loss".
        name: Short name or dotted path.
        arguments: The section's remaining keys.
        given_by_program: Parameters that the pipeline supplies itself; a user can't set them.

    Raises:
        UserError: An unknown key (with the nearest one) or a value of the wrong type.
    """
    target = resolve(kind, name)
    try:
        hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    except NameError:  # names that only a type checker imports: the keys are checked all the same
        hints = {}
    parameters = inspect.signature(target).parameters.values()
    anything = any(p.kind == p.VAR_KEYWORD for p in parameters)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {p.name: p for p in parameters if p.kind in by_name and p.name not in given_by_program}
    for key, value in arguments.items():
        if key in given_by_program:
            raise UserError(f"{kind} '{name}': '{key}' is supplied by the program and can't be set.")
        if key not in known:
            if anything:
                continue
            hint = nearest(key, known) if known else " (it has none)"
            raise UserError(f"{kind} '{name}' has no setting '{key}'{hint}.")
        if key in hints and not matches(value, hints[key]):
            raise UserError(f"{kind} '{name}': '{key}' is {value!r}, expected {describe(hints[key])}.")
    missing = [k for k, p in known.items() if p.default is p.empty and k not in arguments]
    if missing:
        raise UserError(f"{kind} '{name}' needs the setting(s) {', '.join(missing)}.")
