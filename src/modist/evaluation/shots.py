"""Five worked examples for MMLU STEM, written for modist.

The published harness shows five of its own, one of them damaged (a form feed in place of `\\f`).  None is copied here, so this
prompt is not the published one, and scores need not be the same.
"""

from __future__ import annotations

from modist.evaluation.benchmark import Shot

STEM: tuple[Shot, ...] = (
    Shot(
        "A cart of mass 4 kg, at rest on a level track without friction, is pulled by a constant horizontal force of 10 N. "
        "How fast is it moving after it has travelled 5 m?\n"
        "Answer Choices: (A) 2.5 m/s (B) 5 m/s (C) 12.5 m/s (D) 25 m/s",
        "The force does the work $W = Fd = 10 \\cdot 5 = 50$ J, and all of it becomes kinetic energy. "
        "From $\\frac{1}{2} m v^2 = 50$ with $m = 4$ we get $v^2 = 25$, so $v = 5$ m/s.\n"
        "The answer is $\\boxed{B}$.",
    ),
    Shot(
        "In which group $G$ does every element $g$ satisfy $g + g + g = 0$?\n"
        "Answer Choices: (A) $\\mathbb{Z}_6$ (B) $\\mathbb{Z}_9$ (C) $\\mathbb{Z}_2 \\times \\mathbb{Z}_3$ "
        "(D) $\\mathbb{Z}_3 \\times \\mathbb{Z}_3$",
        "Every element other than $0$ must have order 3. In $\\mathbb{Z}_6$ the element 1 has order 6, in $\\mathbb{Z}_9$ the "
        "element 1 has order 9, and $\\mathbb{Z}_2 \\times \\mathbb{Z}_3$ is isomorphic to $\\mathbb{Z}_6$. In "
        "$\\mathbb{Z}_3 \\times \\mathbb{Z}_3$ we have $3(a, b) = (3a, 3b) = (0, 0)$ for every element.\n"
        "The answer is $\\boxed{D}$.",
    ),
    Shot(
        "How many grams of water form when 4 g of hydrogen gas burn completely in enough oxygen? "
        "(Molar masses in g/mol: H 1, O 16.)\n"
        "Answer Choices: (A) 36 (B) 18 (C) 20 (D) 72",
        "The reaction is $2\\,\\mathrm{H_2} + \\mathrm{O_2} \\to 2\\,\\mathrm{H_2O}$, so each mole of hydrogen gas gives one "
        "mole of water. 4 g of hydrogen gas are $4 / 2 = 2$ mol, and 2 mol of water weigh $2 \\cdot 18 = 36$ g.\n"
        "The answer is $\\boxed{A}$.",
    ),
    Shot(
        "A plant that is heterozygous for one gene with complete dominance is crossed with one that is homozygous recessive. "
        "What share of the offspring is expected to show the dominant trait?\n"
        "Answer Choices: (A) none (B) a quarter (C) half (D) three quarters",
        "Write the cross as $Aa \\times aa$. The first parent passes on $A$ or $a$, each with probability $\\frac{1}{2}$; the "
        "second always passes on $a$. So half of the offspring is $Aa$ and shows the dominant trait; half is $aa$.\n"
        "The answer is $\\boxed{C}$.",
    ),
    Shot(
        "A sorted array holds 1,000 different keys. How many keys does binary search look at, at most, to find out that "
        "a given key is not there?\n"
        "Answer Choices: (A) 1000 (B) 500 (C) 100 (D) 10",
        "Each look leaves at most half of the keys, rounded down: 1000, 500, 250, 125, 62, 31, 15, 7, 3, 1, 0. That is ten "
        "looks, in agreement with $\\lceil \\log_2 1001 \\rceil = 10$.\n"
        "The answer is $\\boxed{D}$.",
    ),
)
