"""PMSI lines written by position, as ATIH's descriptions of formats count them: nothing here reads the hub's tables."""

from __future__ import annotations

FINESS = "350000022"
INSURED, KEY = "2850535238001", "48"
"""The number of the mother: 97 - 2850535238001 mod 97 is 48."""


def line(length: int, *fields: tuple[int, str]) -> bytes:
    """A line of spaces with these texts at these positions, counted from 1."""
    made = bytearray(b" " * length)
    for position, text in fields:
        made[position - 1 : position - 1 + len(text)] = text.encode()
    assert len(made) == length
    return bytes(made)


def changed(data: bytes, *fields: tuple[int, str]) -> bytes:
    """A line with other texts at these positions."""
    made = bytearray(data)
    for position, text in fields:
        made[position - 1 : position - 1 + len(text)] = text.encode()
    return bytes(made)


ACT = b"25022025DEQP003-0101    2" + b" " * 2 + b"02"
"""An act of 29 characters: date 1-8, code 9-15, extension 16-18, phase 19, activity 20, how many times 28-29."""

RUM = (
    line(
        192,
        (1, "11"),
        (3, "05M092"),
        (10, "122"),
        (13, "000"),
        (16, FINESS),
        (25, "022"),
        (28, "0000042"),
        (48, "25000777"),
        (68, "0001"),
        (78, "12051985"),
        (86, "2"),
        (87, "CARD"),
        (91, "08"),
        (93, "24022025"),
        (101, "8"),
        (103, "01032025"),
        (111, "8"),
        (113, "35400"),
        (118, "0000"),
        (122, "00"),
        (132, "00"),
        (134, "02"),
        (136, "01"),
        (138, "001"),
        (141, "I500"),
        (149, "I10"),
        (157, "034"),
        (185, "5"),
    )
    + b"E119    J961+0  "
    + b"Z8671   "
    + ACT
)
"""A stay of one unit, format 122."""

VID_HOSP = line(
    468,
    (1, INSURED),
    (14, KEY),
    (16, "01"),
    (18, "10"),
    (20, "12051985"),
    (28, "2"),
    (29, "25000777"),
    (49, "V014"),
    (53, FINESS),
    (162, "24022025"),
    (190, "1"),
    (191, "000"),
    (354, "8812"),
    (397, "MEDECIN"),
    (467, "00"),
)
"""The VID-HOSP line of that stay."""

CHILD_RUM = changed(
    RUM, (28, "0000043"), (48, "25000778"), (78, "25022025"), (86, "1"), (93, "25022025"), (118, "3210")
)
CHILD_VID_HOSP = changed(VID_HOSP, (20, "25022025"), (28, "1"), (29, "25000778"), (140, "25000777"), (354, "9900"))
"""Her newborn, on her number."""

UNIT = line(60, (1, "01"), (3, "0001"), (7, FINESS), (16, "I500"), (22, "I10"), (28, "034"), (33, "01"), (35, "001"))
UNIT = changed(UNIT, (38, "0005"), (42, "07AC"))
RSA = (
    line(
        265,
        (1, FINESS),
        (10, "229"),
        (13, "0000000007"),
        (23, "122"),
        (40, "11"),
        (42, "05M092"),
        (51, "01"),
        (53, "039"),
        (59, "2"),
        (60, "8"),
        (62, "03"),
        (64, "2025"),
        (68, "8"),
        (71, "0005"),
        (75, "35400"),
        (80, "35400"),
        (114, "1"),
        (136, "1"),
        (210, "5"),
        (213, "01"),
        (215, "I500"),
        (221, "I10"),
        (227, "0001"),
        (231, "00001"),
    )
    + b"62"
    + b"1234001"
    + UNIT
    + b"E119  "
    + b"001DEQP0030101 "
    + b" " * 6
    + b"022"
)
"""A stay of one unit, with one authorisation and one radiotherapy supplement before it, format 229."""

PSEUDONYM = "aB3dE5gH7jK9mN1pQ"
ANO = line(
    1103,
    (1, "0" * 32),
    (33, FINESS),
    (42, "013"),
    (45, "014"),
    (48, "03"),
    (50, "2025"),
    (54, "000000000"),
    (63, PSEUDONYM),
    (140, "12051985"),
    (162, "0000000007"),
    (172, "24022025"),
    (180, "01032025"),
    (212, "0"),
    (341, "M" * 32),
    (435, "1"),
)
"""The chaining line of that stay."""
