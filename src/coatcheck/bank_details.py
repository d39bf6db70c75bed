"""The bank-details guard: an IBAN or an account number is refused before it is stored; only tokens are kept.

An IBAN is a country's two letters, two check digits, and as many letters and digits as the country has, in groups or
not, whose remainder by 97 is one (ISO 13616, ISO 7064). Account numbers elsewhere have no check that all banks share:
what is nothing but 5 or more digits, with the separators that people write, is taken for one, and so is what stands
behind a BIC.
"""

import re

# Of the SWIFT registry: how many characters an IBAN has in each country.
_LENGTHS = {
    country: int(length)
    for country, length in re.findall(
        "([A-Z]{2})([0-9]{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 "
        "ES24 FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 "
        "LB28 LC32 LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 "
        "PT25 QA29 RO24 RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 "
        "YE30",
    )
}
_RUN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ .\-]?[A-Za-z0-9]){11,}")
_SEPARATORS = re.compile(r"[ .\-/]")
_FEWEST_DIGITS = 5
_BIC_AND_NUMBER = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{6}[A-Za-z0-9]{2}(?:[A-Za-z0-9]{3})?[ /:,;-]+[0-9]{5,}")


def bank_details_in(text: str) -> bool:
    """Whether a text holds what looks like an IBAN, or is what looks like an account number."""
    bare = _SEPARATORS.sub("", text)
    is_number = bare.isascii() and bare.isdigit() and len(bare) >= _FEWEST_DIGITS
    return is_number or _BIC_AND_NUMBER.search(text) is not None or any(map(_begins_with_iban, _RUN.findall(text)))


def _begins_with_iban(run: str) -> bool:
    bare = _SEPARATORS.sub("", run).upper()
    length = _LENGTHS.get(bare[:2], len(bare) + 1)
    return len(bare) >= length and _remainder(bare[:length]) == 1


def _remainder(iban: str) -> int:
    """Divide as ISO 7064 does: the first four characters go to the end, letters count from 10."""
    return int("".join([str(int(each, 36)) for each in iban[4:] + iban[:4]])) % 97
