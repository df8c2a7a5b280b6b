"""Films that do not exist: readable names and genres for the items of a synthetic world, one genre a ring."""

from __future__ import annotations

from diffusers_rec import SyntheticWorld

GENRES = {
    "western": ("Saddle", "Canyon"),
    "noir": ("Alibi", "Stairwell"),
    "space": ("Airlock", "Comet"),
    "comedy": ("Trombone", "Marzipan"),
    "romance": ("Letterbox", "Orchard"),
    "horror": ("Cellar", "Scarecrow"),
}
"""Genres and what their titles are about."""
KINDS = "Copper", "Borrowed", "Crooked", "Seventh", "Unlit"
NUM_FILMS = len(KINDS) * sum(map(len, GENRES.values()))


def film_world(seed: int = 0) -> tuple[SyntheticWorld, list[str], dict[str, str]]:
    """A world of films, their titles in the order of its items, and the genre of each title."""
    world = SyntheticWorld(NUM_FILMS, num_groups=len(GENRES), seed=seed)
    left = {genre: [f"{kind} {about}" for kind in KINDS for about in abouts] for genre, abouts in GENRES.items()}
    genres = [list(GENRES)[group] for group in world.groups]
    titles = [left[genre].pop() for genre in genres]
    return world, titles, dict(zip(titles, genres, strict=True))
