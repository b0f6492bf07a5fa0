"""Words in the place of a species' name that name no species."""

from __future__ import annotations

# What programs and people write where they have nothing to write.
EMPTY = frozenset({"", "nan", "na", "n/a", "n.a.", "#n/a", "none", "null", "<na>", "-", "--"})


def _phrases(text: str) -> frozenset[str]:
    return frozenset(phrase.strip() for phrase in text.replace("\n", "|").split("|") if phrase.strip())


# "There is no bird here": BirdNET's folders and non-bird classes, and what annotators write.
NO_BIRD = _phrases(
    """
    noise|noises|other|others|background|background noise|ambient|ambience|silence|silent|empty
    blank|nothing|absent
    no bird|no birds|nobird|nobirds|no event|no events|no call|no calls|nocall|no song|no vocalization
    no vocalisation|no vocalizations|no vocalisations|no detection|no detections|negative|negatives
    non bird|nonbird
    non birds|not a bird|environment|environmental|anthropogenic|anthropophony|anthrophony|geophony|abiotic
    engine|motor|wind|rain|drizzle|thunder|storm|hail|water|stream|river|creek|waterfall|waves|sea|surf
    traffic|road|car|cars|truck|vehicle|vehicles|motorcycle|plane|airplane|aeroplane|aircraft
    helicopter|drone
    train|boat|ship|siren|horn|bell|bells|gun|gunshot|shot|fireworks|power tools|chainsaw
    machine|machinery
    mechanical|construction|hammering|human|humans|person|people|speech|speaking|talking|talk|voice
    voices|laughter
    cough|footsteps|steps|music|dog|dogs|barking|dog bark|dog barking|cat|cow|cattle|sheep|horse
    squirrel|chipmunk
    mammal|insect|insects|cricket|crickets|cicada|cicadas|grasshopper|katydid|bee|bees|fly|mosquito
    frog|frogs|toad|toads|amphibian|bat|bats|static|hum|clipping
    electronic|electrical
    interference|artifact|artefact|microphone|mic|handling|self noise|door|rustle|rustling|leaves
    homo sapiens|orthoptera|anura|amphibia|insecta|mammalia|chiroptera|none detected|none heard
    nothing heard
    no other bird|no other birds|absence|non target|nontarget|no target
    """
)
# A phrase that ends in one of these is no bird: 'road traffic', 'wind noise'.
NOISE_HEADS = _phrases(
    """
    noise|noises|engine|engines|motor|traffic|aircraft|airplane|helicopter|chainsaw|voice|voices
    speech|footsteps
    insect|insects|cricket|crickets|cicada|cicadas|frog|frogs|rain|wind|thunder|siren|static|interference
    bark|barking
    """
)
# A phrase of these words alone is no bird: 'rain drops', 'car passing', 'barking dog'.
NOISE_WORDS = frozenset(phrase for phrase in NO_BIRD if " " not in phrase) | _phrases(
    """
    passing|passes|drop|drops|overhead|only|sound|sounds|distant|far|near|close|loud|heavy|light
    strong|faint|weak
    hiss|click|church|jet|propeller|low|high|frequency|background|ambient|general|other|of|and|in|the|a|with|from
    """
)
# A bird, or perhaps one, whose species nobody said: neither a species nor "no bird".
UNKNOWN = _phrases(
    """
    unknown|unk|unkn|unid|unident|unidentified|unidentifiable|not identified|identity unknown|id unknown
    undetermined|indeterminate|indet|uncertain|unsure|unclear|not sure|doubtful|ambiguous|mystery
    mystery mystery
    soundscape|tbd|todo|to do|tba|check|review|bird|birds|a bird|some bird|aves|bird sp|other bird
    other birds
    various|various species|multiple|multiple species|several|several species|mixed|mixed species|misc
    miscellaneous|sp|spp|species|biophony|dawn chorus|chorus
    no id|noid|tbc|unclassified|to be identified|to check|false positive|bird song|birdsong|bird songs
    bird call|bird calls
    bird sound|bird sounds|background bird|background birds|distant bird|distant birds|passerine|passerines
    """
)
UNKNOWN_FIRST = _phrases(
    """
    unknown|unidentified|uncertain|unsure|possible|possibly|probable|probably|maybe|perhaps|cf
    likely|mystery
    undetermined|indet|unid|unident|poss|prob|unk
    """
)
# Words that leave the species open wherever they stand: 'Larus cf. argentatus', 'Great Tit (probable)'.
UNKNOWN_ANYWHERE = _phrases("cf|aff|sp|spp|probable|possible|unidentified|uncertain")
UNKNOWN_LAST = _phrases("unknown|unidentified|uncertain|indet|sp|spp|species")
# What kind of sound it is, and not whose: the species has to come from elsewhere.
SOUND_TYPES = _phrases(
    """
    song|songs|call|calls|subsong|drumming|drum|duet|flight call|alarm call|begging call
    contact call|dawn song
    nocturnal flight call|trill|chip|whistle|alarm|alarms|flight|begging|rattle|drums|flight calls|alarm calls
    begging calls|contact calls|trills|chips|whistles|rattles|click|clicks|hiss|hissing|note|notes
    syllable|phrase
    """
)
# What may follow a species' scientific name and is not its common name.
QUALIFIERS = _phrases(
    "male|female|adult|juvenile|immature|nestling|chick|chicks|m|f|ad|juv|imm|unknown|other|test|train"
)
# Folders that sort recordings and name no species: they are seen through.
CONTAINERS = _phrases(
    """
    train|training|trn|valid|validation|val|dev|eval|evaluation|test|testing|holdout|heldout|split
    splits|fold|folds
    audio|audios|recording|recordings|sound|sounds|clip|clips|segment|segments|sample|samples|song
    songs|call|calls
    wav|wavs|flac|mp3|mp3s|ogg|data|dataset|datasets|raw|original|originals|processed|xeno|canto
    xenocanto|xc
    batch|part|set|cd|disc|disk|sd|card|card|unsorted|new|folder|to check|check|soundscape
    soundscapes|site|plot
    station|transect|location|recorder|aru|audiomoth|songmeter|day|night|week|month|year|session|season
    macaulay|inaturalist|focal|birds|birdsong|species|classes|labelled|labeled|foreground|positive|positives
    """
)
