"""Word lists and number facts that the demo corpus draws its slots from."""

# ruff: noqa: E501, SIM905 - word and phrase tables read better in full lines
from __future__ import annotations

NAMES = """Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Kira Leo Mia Noah Olga Paul Rosa Sam
Tina Uma Viktor Wendy Yara Zoe Alice Bob Carol Dan Eve Frank Grace Henry Iris Jack Kate Liam Maria
Nina Oscar Peter Ruth Sara Tom Vera Will Adam Bella Chris Diana Eric Fiona George Hannah Ivan Julia
Karl Laura Max Nora Otto Petra Ravi Sofia Theo Lily Lucy Mark Milo Omar Pia Quinn Rita Simon Tara
Amir Aisha Chen Dmitri Elena Fatima Giorgio Hiro Ingrid Jose Kenji Layla Mateo Nadia Priya Yuki
John Jane James Mary Robert Linda Michael Sarah Thomas Susan Daniel Lisa Matthew Betty Anthony""".split()

CITIES = """Paris London Berlin Rome Madrid Vienna Prague Oslo Lisbon Dublin Athens Warsaw Zurich
Milan Munich Hamburg Lyon Porto Geneva Boston Chicago Denver Seattle Austin Dallas Toronto Montreal
Tokyo Osaka Kyoto Seoul Delhi Mumbai Cairo Nairobi Lagos Lima Bogota Sydney Perth Auckland Dubai
Istanbul Helsinki Stockholm Copenhagen Amsterdam Brussels Budapest Moscow Miami Houston Glasgow
Bristol Leeds Naples Venice Turin Seville Valencia Nice Cologne Basel Salzburg Graz""".split()

JOBS = """baker teacher doctor nurse pilot farmer painter singer writer lawyer plumber carpenter
gardener engineer chef waiter driver dentist actor dancer tailor butcher librarian florist sailor
mechanic electrician architect scientist photographer musician journalist accountant programmer
designer clerk cashier barber fisherman soldier judge translator student cook guard miner vet
developer manager firefighter potter poet banker surgeon""".split()

ANIMALS = """fox cat dog owl bear wolf rabbit horse mouse frog duck goose hen pig cow sheep goat lion
tiger monkey parrot turtle whale dolphin seal crab bee ant snail spider snake lizard deer hedgehog
squirrel badger otter beaver raven sparrow swan penguin camel zebra giraffe panda koala kangaroo
crocodile dragon unicorn hamster donkey eagle robot elephant bat moth hippo toad""".split()

OBJECTS = """lamp key map drum kite book bell coin ring clock mirror basket ladder rope shell pearl
crown sword shield violin flute letter box hat cloak boot button candle lantern compass telescope
umbrella pencil brush cake apple pie loaf cheese jar cup spoon pot kettle wheel cart boat feather
stone crystal flower seed leaf ball doll bottle wand blanket bicycle guitar trumpet scarf""".split()

NATURE = (
    "forest meadow valley mountain hill garden field jungle desert cave canyon farm orchard park"
).split()
WATER = "beach island river lake sea harbour lighthouse ship pond swamp ocean lagoon".split()
TOWN = (
    "city village market castle school library museum bakery station tower palace kitchen theatre "
    "factory hospital shop house hotel zoo"
).split()
SPACE = "moon rocket sky cloud star planet spaceship comet".split()
PLACES = NATURE + WATER + TOWN + SPACE

LIST_WORDS = """apple banana cherry date elder fig grape hazel iris juniper kiwi lemon mango nut olive
pear plum quince rose salt tulip vanilla walnut yam zebra ant bear cat dog eel fox goat hen ibis jay
koala lion mole newt owl pig quail rat swan tiger viper wolf yak anchor book chair desk engine flag
glass hammer ink jar kite lamp mirror needle orange pen quilt ring spoon table umbrella vase wheel
red blue green white black pink brown gold silver train boat car ship plane bus milk bread tea coffee
sugar rice egg cheese soup cake""".split()

DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = (
    "January February March April May June July August September October November December"
).split()
MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

# singular, plural and abbreviations of the larger unit; the smaller unit; factor; largest count
UNITS: tuple[tuple[str, str, tuple[str, ...], str, tuple[str, ...], int, int], ...] = (
    ("kilometre", "kilometres", ("km", "kilometer", "kilometers"), "metres", ("m", "meters"), 1000, 99),
    ("kilogram", "kilograms", ("kg", "kilo", "kilos"), "grams", ("g", "gram"), 1000, 99),
    ("litre", "litres", ("l", "liter", "liters"), "millilitres", ("ml", "milliliters"), 1000, 99),
    ("tonne", "tonnes", ("t", "ton", "tons"), "kilograms", ("kg", "kilos"), 1000, 99),
    ("metre", "metres", ("m", "meter", "meters"), "centimetres", ("cm", "centimeters"), 100, 99),
    ("centimetre", "centimetres", ("cm", "centimeter", "centimeters"), "millimetres",
     ("mm", "millimeters"), 10, 99),
    ("euro", "euros", ("eur",), "cents", ("cent",), 100, 99),
    ("century", "centuries", (), "years", ("year",), 100, 20),
    ("hour", "hours", ("h", "hrs", "hr"), "minutes", ("min", "mins"), 60, 12),
    ("minute", "minutes", ("min", "mins"), "seconds", ("s", "sec", "secs"), 60, 12),
    ("day", "days", (), "hours", ("h", "hrs"), 24, 7),
    ("week", "weeks", (), "days", ("day",), 7, 10),
    ("year", "years", (), "months", ("month",), 12, 10),
)  # fmt: skip

LOWER_NAME_PARTS = (
    "ba be bi bo bra cal cor da del do dri el en fa fen gal gor ha hel ja jor ka kel la len lo ma mar "
    "mi mon na nel ni no or pa per ra ren ri ro sa sel shi so ta ten tri va vel vi wen ya zan zo"
).split()

VERBS_NAMES = "get make do run find calc compute my new is to check count build fast simple".split()
NOUN_NAMES = (
    "value result number numbers text string items list data word total sum max thing helper func "
    "answer list2 it all stuff func1 test main foo bar baz util"
).split()
