"""Presets: functions that return a complete pipeline, one paper per file."""

from collections.abc import Callable

from diffusers_rec.presets.acvae import acvae
from diffusers_rec.presets.adrec import adrec
from diffusers_rec.presets.bert4rec import bert4rec
from diffusers_rec.presets.best import best
from diffusers_rec.presets.cddrec import cddrec
from diffusers_rec.presets.cl4srec import cl4srec
from diffusers_rec.presets.control import control
from diffusers_rec.presets.d3rec import d3rec
from diffusers_rec.presets.diffurec import diffurec
from diffusers_rec.presets.dreamrec import dreamrec
from diffusers_rec.presets.du2023 import du2023
from diffusers_rec.presets.duorec import duorec
from diffusers_rec.presets.ediffurec import ediffurec
from diffusers_rec.presets.flowcf import flowcf
from diffusers_rec.presets.flowrec import flowrec
from diffusers_rec.presets.fmrec import fmrec
from diffusers_rec.presets.gru4rec import gru4rec
from diffusers_rec.presets.joint import joint
from diffusers_rec.presets.maskgr import maskgr
from diffusers_rec.presets.mfgan import mfgan
from diffusers_rec.presets.preferdiff import preferdiff
from diffusers_rec.presets.prefergrow import prefergrow
from diffusers_rec.presets.sasrec import sasrec
from diffusers_rec.presets.stosa import stosa
from diffusers_rec.presets.tarec import tarec
from diffusers_rec.presets.vsan import vsan
from diffusers_rec.presets.wang2023 import wang2023, wang2023_temporal
from diffusers_rec.presets.wang2023_latent import wang2023_latent
from diffusers_rec.recommenders.base import Recommender

paper = du2023
"""Alias of ``du2023``, the paper that this library started from."""

PRESETS: dict[str, Callable[..., Recommender]] = {
    "best": best,
    "joint": joint,
    "paper": paper,
    "diffurec": diffurec,
    "dreamrec": dreamrec,
    "preferdiff": preferdiff,
    "adrec": adrec,
    "fmrec": fmrec,
    "flowrec": flowrec,
    "maskgr": maskgr,
    "prefergrow": prefergrow,
    "tarec": tarec,
    "cddrec": cddrec,
    "ediffurec": ediffurec,
    "wang2023": wang2023,
    "wang2023-latent": wang2023_latent,
    "wang2023-temporal": wang2023_temporal,
    "flowcf": flowcf,
    "gru4rec": gru4rec,
    "sasrec": sasrec,
    "bert4rec": bert4rec,
    "stosa": stosa,
    "cl4srec": cl4srec,
    "duorec": duorec,
    "vsan": vsan,
    "acvae": acvae,
    "mfgan": mfgan,
}
"""Presets by their names on the command line and in the training recipes."""

__all__ = [
    "PRESETS",
    "acvae",
    "adrec",
    "bert4rec",
    "best",
    "cddrec",
    "cl4srec",
    "control",
    "d3rec",
    "diffurec",
    "dreamrec",
    "du2023",
    "duorec",
    "ediffurec",
    "flowcf",
    "flowrec",
    "fmrec",
    "gru4rec",
    "joint",
    "maskgr",
    "mfgan",
    "paper",
    "preferdiff",
    "prefergrow",
    "sasrec",
    "stosa",
    "tarec",
    "vsan",
    "wang2023",
    "wang2023_latent",
    "wang2023_temporal",
]
