"""The words of the page that a reader may not know."""

GLOSSARY = (
    (
        "Claim; holds, does not hold",
        "A statement about measured numbers, checked by code. It holds if the numbers meet what is "
        "needed in the runs of this report; that it does not hold here says nothing about other "
        "settings.",
    ),
    (
        "Degrees of freedom",
        "For classifiers: how much the predicted probabilities would move with the labels, summed "
        "over the points. A count, from 0 to the number of points.",
    ),
    (
        "Effective parameters",
        "How many parameters the predictions use as if the network were a linear smoother of its "
        "training labels: from the squared weights that predictions put on labels. A network that "
        "reproduces every training label uses as many as there are training points.",
    ),
    (
        "Kernel norm",
        "Length of the row that the tangent kernel has for a point: how much one training step "
        "moves the prediction there.",
    ),
    (
        "Lazy linearisation",
        "The network replaced, once and for all, by its linear expansion around the initial "
        "weights.",
    ),
    (
        "p_train, p_test",
        "Effective parameters used on training and on test points. Equal: the network treats new "
        "points like old ones. Train above test: it spends parameters on the training points "
        "alone.",
    ),
    ("Seed", "A number that fixes all random choices of a run; several show how much is chance."),
    (
        "Smoother",
        "The matrix S with which predictions are S Y + c, for training labels Y.",
    ),
    (
        "Standard error",
        "How far the mean over seeds, or an estimate from random probes, is likely to be from the "
        "true mean. Written after ±.",
    ),
    (
        "Telescoped",
        "The network replaced by the sum of linear expansions around the weights of every recorded "
        "step, instead of around the initial ones alone. First order: linear. Second order: with "
        "curvature.",
    ),
)
"""Terms with their meanings, in alphabetical order."""
