"""Fit a scaling law to your own trainings, and ask it what a larger one would give.

The CSV file has a row for each run (several seeds of a size may have a row each), with a column of sizes (parameters,
tokens or compute) and one of losses:

    python examples/fit_my_runs.py runs.csv --size parameters --loss loss
    python examples/fit_my_runs.py runs.csv --size parameters tokens --loss loss   # both may limit
    python examples/fit_my_runs.py                                                 # on numbers of this file
"""

import argparse
import io
from functools import partial

import numpy as np
import pandas as pd

from landform.scaling import TwoTermLaw, bootstrap_fit, extrapolation_score, fit_power_law

# Byte transformers on Python source, three seeds each, nats per byte: from the study scaling-laws-autoregressive.
SAMPLE = """parameters,loss
496,2.6497
496,2.6586
496,2.6882
1032,2.4833
1032,2.5080
1032,2.4780
1760,2.4153
1760,2.3983
1760,2.3901
3792,2.2768
3792,2.2736
3792,2.2416
6592,2.1652
6592,2.1730
6592,2.1686
14496,2.0643
14496,2.0715
14496,2.0795
25472,2.0150
25472,2.0488
25472,2.0196
"""

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("csv", nargs="?", default=io.StringIO(SAMPLE))
parser.add_argument("--size", nargs="+", default=["parameters"], metavar="COLUMN", help="one column, or two")
parser.add_argument("--loss", default="loss", metavar="COLUMN")
parser.add_argument("--noise", type=float, default=0.01, help="relative error of a loss that is still usual")
options = parser.parse_args()

runs = pd.read_csv(options.csv)
x, y = runs[options.size].to_numpy(float), runs[options.loss].to_numpy(float)

if len(options.size) == 2:
    fit = fit_power_law(x, y, "two-term", delta=options.noise)
    print(fit)
    law = fit.law
    assert isinstance(law, TwoTermLaw)
    print(f"With ten times the compute of the largest run (C = 6 N D), the best size goes as C^{law.beta:.2f}:")
    size, tokens, loss = law.allocate(10 * 6 * x.prod(axis=1).max())
    print(f"  {size:.3g} parameters, {tokens:.3g} tokens, loss {loss:.4g}")
else:
    x = x[:, 0]
    fit = fit_power_law(x, y, "power+const", delta=options.noise)
    print(fit)
    low, high = fit.constant_interval()
    print(f"The loss that no size takes away: {fit.law.L_inf:.4g} (95 %: {low:.4g} to {high:.4g}).")
    if not fit.constant_identified:
        print("The runs do not span enough to say what it is: read the forecast as a guess about the form of the law.")
    boot = bootstrap_fit(partial(fit_power_law, form="power+const", delta=options.noise), (x, y), "pair", B=500)
    print("Exponent: {:.3g} (95 %: {:.3g} to {:.3g})".format(fit.law.alpha, *boot.interval("alpha")))
    forecast = fit.predict(10 * x.max())
    print(f"At ten times the largest size: {forecast.value:.4g} (95 %: {forecast.low:.4g} to {forecast.high:.4g})")
    if len(np.unique(x)) > 4:
        print("Had the largest size been held out, each predictor would have been off by:")
        for name, score in extrapolation_score(x, y, np.unique(x)[-2], delta=options.noise).items():
            print(f"  {name:12} {score.error.mean():+.4f}")
