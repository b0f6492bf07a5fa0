"""Names of species that a judge's labels do not have, where it is certain which class they are."""

from __future__ import annotations

# Forms that were lumped, and names of other lists (IOC, Britain and Ireland) for eBird's. What was split into
# several classes is not among them: nobody can say which one is meant.
ALIASES = {
    "Myrtle Warbler": "Setophaga coronata",
    "Audubon's Warbler": "Setophaga coronata",
    "Slate-colored Junco": "Junco hyemalis",
    "Oregon Junco": "Junco hyemalis",
    "Pink-sided Junco": "Junco hyemalis",
    "Gray-headed Junco": "Junco hyemalis",
    "Yellow-shafted Flicker": "Colaptes auratus",
    "Red-shafted Flicker": "Colaptes auratus",
    "Gambel's Sparrow": "Zonotrichia leucophrys",
    "Gambel's White-crowned Sparrow": "Zonotrichia leucophrys",
    "Grey Plover": "Pluvialis squatarola",
    "Common Starling": "Sturnus vulgaris",
    "Great Northern Diver": "Gavia immer",
    "Red-throated Diver": "Gavia stellata",
    "Black-throated Diver": "Gavia arctica",
    "Slavonian Grebe": "Podiceps auritus",
    "Black-necked Grebe": "Podiceps nigricollis",
    "Common Guillemot": "Uria aalge",
    "Arctic Skua": "Stercorarius parasiticus",
    "Sand Martin": "Riparia riparia",
    "Rock Dove": "Columba livia",
    "Feral Pigeon": "Columba livia",
    "Lapland Bunting": "Calcarius lapponicus",
    "Goosander": "Mergus merganser",
    "Brent Goose": "Branta bernicla",
    "Rough-legged Buzzard": "Buteo lagopus",
    "Pied Wagtail": "Motacilla alba",
    "Common Whitethroat": "Curruca communis",
    "Common Blackbird": "Turdus merula",
    "Blackcap": "Sylvia atricapilla",
    "Chiffchaff": "Phylloscopus collybita",
}

# Genera that lists disagree on, or disagreed on until lately; the second name of a species stays.
SAME_GENUS = tuple(
    tuple(group.casefold().split())
    for group in (
        "Accipiter Astur Tachyspiza",
        "Setophaga Dendroica Parula",
        "Leiothlypis Vermivora Oreothlypis",
        "Cardellina Wilsonia",
        "Geothlypis Oporornis",
        "Melozone Pipilo",
        "Spinus Carduelis",
        "Chloris Carduelis",
        "Linaria Carduelis",
        "Acanthis Carduelis",
        "Haemorhous Carpodacus",
        "Dryobates Picoides Leuconotopicus",
        "Corthylio Regulus",
        "Curruca Sylvia",
        "Coloeus Corvus",
        "Poecile Parus",
        "Cyanistes Parus",
        "Periparus Parus",
        "Lophophanes Parus",
        "Baeolophus Parus",
    )
)

# Codes of the North American banding offices that differ from the rule, or that the rule gives to a bird of
# another continent too.
CODES = {
    "AUWA": "Setophaga coronata",
    "BANS": "Riparia riparia",
    "BARS": "Hirundo rustica",
    "BCCH": "Poecile atricapillus",
    "BLPH": "Sayornis nigricans",
    "CACG": "Branta hutchinsii",
    "CALT": "Melozone crissalis",
    "CANG": "Branta canadensis",
    "CANT": "Melozone fusca",
    "CANW": "Catherpes mexicanus",
    "CARW": "Thryothorus ludovicianus",
    "CBCH": "Poecile rufescens",
    "CEDW": "Bombycilla cedrorum",
    "CERW": "Setophaga cerulea",
    "LAZB": "Passerina amoena",
    "MYWA": "Setophaga coronata",
    "OCWA": "Leiothlypis celata",
    "ORJU": "Junco hyemalis",
    "PROW": "Protonotaria citrea",
    "SCJU": "Junco hyemalis",
    "TRES": "Tachycineta bicolor",
    "WCSP": "Zonotrichia leucophrys",
    "YEWA": "Setophaga petechia",
}
