"""One class for a species, however its name is written; none where it could be two."""

from __future__ import annotations

import pytest

from birdsd.evaluation.judges.aliases import ALIASES, CODES
from birdsd.evaluation.judges.birdnet import find_judge
from birdsd.evaluation.judges.species import SpeciesNames, code_of
from tests.support.judge_sounds import needs_birdnet

LABELS = [
    "Setophaga townsendi_Townsend's Warbler",
    "Setophaga coronata_Yellow-rumped Warbler",
    "Melozone crissalis_California Towhee",
    "Melozone fusca_Canyon Towhee",
    "Ardea cinerea_Gray Heron",
    "Accipiter cooperii_Cooper's Hawk",
    "Curruca communis_Greater Whitethroat",
    "Engine_Engine",
]
SPELLINGS = {
    0: ["Townsend's Warbler", "Townsend s Warbler", "townsend_s_warbler", "TOWNSENDS WARBLER", "TOWA",
        "Townsend’s Warbler", "Setophaga townsendi", "setophaga_townsendi", "Dendroica townsendi",
        "Setophaga townsendi_Townsend's Warbler", "Townsend's Warbler (Setophaga townsendi)",
        "Setophaga townsendi_Trillerwaldsänger"],
    1: ["Myrtle Warbler", "myrtle_warbler", "Yellow-rumped Warbler", "yellow rumped warbler", "YRWA", "MYWA",
        "Audubon's Warbler", "Setophaga coronata auduboni", "Setophaga coronata_Myrtle Warbler"],
    2: ["CALT", "california towhee"],
    4: ["Grey Heron", "gray_heron"],
    5: ["Astur cooperii", "COHA"],
    6: ["Sylvia communis", "Common Whitethroat"],
    7: ["Engine"],
}  # fmt: skip


@pytest.mark.parametrize(("number", "name"), [(n, name) for n, names in SPELLINGS.items() for name in names])
def test_any_spelling_finds_the_class(number: int, name: str) -> None:
    assert SpeciesNames(LABELS).find(name) == number


@pytest.mark.parametrize("name", ["Synthetic High", "CATO", "Warbler", "Setophaga", "", "?", "TOWAX", "Grey"])
def test_what_could_be_several_or_is_none_has_no_class(name: str) -> None:
    assert SpeciesNames(LABELS).find(name) is None


def test_an_unknown_name_is_told_with_what_it_may_have_meant() -> None:
    names = SpeciesNames(LABELS)
    assert names.why_unknown("CATO") == "'CATO': California Towhee or Canyon Towhee?"
    why = names.why_unknown("Townsend Warblr")
    assert why.startswith("'Townsend Warblr': ") and why.endswith(" 'Townsend's Warbler'?")
    assert names.why_unknown("Setofaga coronata").endswith(" 'Setophaga coronata'?")
    assert names.why_unknown("Synthetic High") == "'Synthetic High'"


@pytest.mark.parametrize(
    ("name", "code"),
    [("Townsend's Warbler", "TOWA"), ("Yellow-rumped Warbler", "YRWA"), ("Eastern Wood-Pewee", "EAWP"),
     ("Black-crowned Night-Heron", "BCNH"), ("Great Blue Heron", "GBHE"), ("Killdeer", "KILL"),
     ("Northern Rough-winged Swallow", "NRWS")],
)  # fmt: skip
def test_codes_follow_the_rule(name: str, code: str) -> None:
    assert code_of(name) == code


@needs_birdnet
def test_every_alias_has_its_class_and_every_class_its_own_names() -> None:
    judge = find_judge()
    scientific = {name.partition("_")[0]: number for number, name in enumerate(judge.names)}
    for name, latin in {**ALIASES, **CODES}.items():
        assert judge.class_of(name) == scientific[latin], name
    for number, label in enumerate(judge.names):
        latin, _, common = label.partition("_")
        assert judge.class_of(latin) == judge.class_of(common) == judge.class_of(label) == number
        assert judge.label_of(number) == common
