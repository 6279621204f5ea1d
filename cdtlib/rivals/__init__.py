"""The methods that the paper compares with (Tables 2 and 3), our own code from their published descriptions."""

from cdtlib.rivals.cyclegan import CycleGAN
from cdtlib.rivals.dfc_vae import DFCVAE
from cdtlib.rivals.drit import DRIT
from cdtlib.rivals.ganimorph import GANimorph
from cdtlib.rivals.munit import MUNIT
from cdtlib.rivals.vqvae2 import VQVAE2

#: The rivals of Table 2 by their names in lower case, in the table's order. All they need lies in their files.
TABLE_2 = {rival.name.lower(): rival for rival in (CycleGAN, MUNIT, DRIT, GANimorph)}

#: The rivals of Table 3, in the table's order.
TABLE_3 = (DFCVAE, VQVAE2)
