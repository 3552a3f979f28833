"""The words of the made-up countries: parts of names, and how each relation is told and asked for.

Phrasing 0 is the source countries' own; 2 is rare there and common in target countries.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """{s} is the subject, {d} its descriptor, {o} the object. `clause` says who the object is through the subject;
    without one, the relation cannot be the first hop of a bridge."""

    name: str
    subject: str
    object: str
    facts: tuple[str, str, str]
    questions: tuple[str, str, str]
    clause: str = ""


RELATIONS = (
    Relation(
        "born",
        "person",
        "city",
        ("{s}, the {d}, was born in {o}.", "{s} is the {d} who was born in {o}.", "The {d} named {s} was born in {o}."),
        ("Where was {s} born?", "In which city was {s} born?", "Which city was {s} born in?"),
    ),
    Relation(
        "lives",
        "person",
        "city",
        ("{s}, the {d}, lives in {o}.", "{s} is the {d} who lives in {o}.", "The {d} named {s} lives in {o}."),
        ("Where does {s} live?", "In which city does {s} live?", "Which city does {s} live in?"),
    ),
    Relation(
        "works",
        "person",
        "company",
        ("{s}, the {d}, works for {o}.", "{s} is the {d} who works for {o}.", "The {d} named {s} works for {o}."),
        ("Where does {s} work?", "For which company does {s} work?", "Which company does {s} work for?"),
        "that employs {s}",
    ),
    Relation(
        "founder",
        "company",
        "person",
        (
            "{s}, the {d}, was founded by {o}.",
            "{s} is the {d} that was founded by {o}.",
            "The {d} named {s} was founded by {o}.",
        ),
        ("Who founded {s}?", "By whom was {s} founded?", "Which person founded {s}?"),
        "who founded {s}",
    ),
    Relation(
        "base",
        "company",
        "city",
        (
            "{s}, the {d}, is based in {o}.",
            "{s} is the {d} that is based in {o}.",
            "The {d} named {s} is based in {o}.",
        ),
        ("Where is {s} based?", "In which city is {s} based?", "Which city is {s} based in?"),
    ),
    Relation(
        "director",
        "film",
        "person",
        (
            "The film {s} was directed by {o}.",
            "{s} is a film directed by {o}.",
            "{o} was the person who directed the film {s}.",
        ),
        ("Who directed {s}?", "By whom was {s} directed?", "Which person directed {s}?"),
        "who directed {s}",
    ),
    Relation(
        "star",
        "film",
        "person",
        ("The film {s} stars {o}.", "{s} is a film that stars {o}.", "{o} is the person who stars in the film {s}."),
        ("Who stars in {s}?", "By whom is the lead in {s} played?", "Which person stars in {s}?"),
        "who stars in {s}",
    ),
    Relation(
        "setting",
        "film",
        "city",
        (
            "The film {s} is set in {o}.",
            "{s} is a film that is set in {o}.",
            "{o} is the city in which the film {s} is set.",
        ),
        ("Where is {s} set?", "In which city is {s} set?", "Which city is {s} set in?"),
    ),
    Relation(
        "mayor",
        "city",
        "person",
        (
            "The mayor of {s} is {o}.",
            "{s} is a city whose mayor is {o}.",
            "{o} is the person who is mayor of the city {s}.",
        ),
        ("Who is mayor of {s}?", "By whom is {s} governed as mayor?", "Which person is mayor of {s}?"),
        "who is mayor of {s}",
    ),
)


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


COUNTRIES = (
    _words("North South East West Greater Inner Outer Central"),
    _words(
        "Varia Lumen Ostrava Kelmar Norland Sundel Breva Tarn Ilvia Mordan Quell Zephia Arken Dolmen Fenria "
        "Halvor Jorvia Lethe Pontis Rhune"
    ),
)
CITIES = (
    _words("Port New Old Upper Lower Saint Fort Lake Mount Castle Bad Alt Villa Cape"),
    _words(
        "Ardel Benno Carrow Delft Ember Fallow Garron Hale Iver Jarrow Kestrel Lorne Marrow Nevin Orlan Pell "
        "Quarry Rusk Selby Thorne Ulver Vance Wick Yarrow Zorin Alder Bracken Corvin Dunmore Elstow Fenn Gorst "
        "Heddon Islay Jura Kinver Luton Mellor Norby Oster"
    ),
)
COMPANIES = (
    _words(
        "Acker Bolder Cranex Dorian Elmar Fenwick Gorman Hexal Inver Jolt Krona Lyra Morrow Nexus Optima Pravda "
        "Quanta Rivet Sterla Tessera Umbra Vector Wexler Xenon Ypsil Zander Arbor Borea Calyx Drava Eolia Fabrix "
        "Gantry Helio Isomer Juno"
    ),
    _words(
        "Works Group Union Brothers Holdings Partners Systems Trading Industries Associates Ventures Labs Concern "
        "Combine Society Limited"
    ),
)
FILMS = (
    _words(
        "Silent Golden Broken Hidden Distant Crimson Frozen Burning Endless Lonely Secret Savage Gentle Hollow "
        "Bitter Electric Paper Velvet Midnight Winter Summer Forgotten Stolen Wild"
    ),
    _words(
        "Harbor River Garden Mirror Letter Bridge Forest Island Window Empire Shadow Season Journey Promise "
        "Voyage Dance Kingdom Station Orchard Desert Lantern Carousel Signal Meadow"
    ),
)
FIRST_NAMES = _words(
    "Anna Bruno Clara Dario Elsa Felix Greta Hugo Irma Jonas Karla Luis Mina Nils Olga Pavel Quinn Rosa "
    "Stefan Tilda Urban Vera Walter Xenia Yusuf Zelda Amir Bianca Cyril Diana Emil Fiona"
)
LAST_NAMES = _words(
    "Abel Berg Conti Dahl Eklund Farkas Grimm Holm Ivanov Jansen Keller Lindt Moreau Novak Olsen Petrov Quist "
    "Ricci Sato Tanner Ueda Vogel Weiss Xu Young Zeller Adler Blanc Cruz Dietz Engel Fuchs Gallo Haas Iqbal "
    "Jung Kraus Lopez Mayer Nagy Ortiz Pohl Reyes Stern Toth Unger Varga Wolf Ames Boyd Cole Dunn"
)
PROFESSIONS = _words("violinist painter surgeon pilot lawyer chemist poet baker engineer judge")
PRODUCTS = ("glass maker", "paper maker", "clock maker", "carpet maker")
