import numpy as np

from lmaps_science.cards.verdict import Check, judge


def test_the_worst_check_decides_and_gives_its_reason():
    fine = Check("chi2", 1.02, 1.5, 4.0, "noise is mis-stated")
    odd = Check("chi2", 2.0, 1.5, 4.0, "noise is mis-stated")
    bad = Check("flux", 9.0, 1.5, 4.0, "give the flux")
    assert judge([fine]) == ("good", ["chi2 1.02 (within 1.5)"])
    assert judge([fine, odd]) == ("doubtful", ["chi2 2 (above 1.5): noise is mis-stated"])
    assert judge([fine, odd, bad]) == ("does not fit", ["flux 9 (above 4): give the flux"])


def test_a_number_that_is_none_is_the_worst():
    assert judge([Check("chi2", np.nan, 1.5, 4.0)])[0] == "does not fit"


def test_without_a_check_nothing_is_judged():
    assert judge([])[0] == "not judged"
