"""Tables of the SNDS as CSV: the DCIR, the register of beneficiaries, the causes of death."""
