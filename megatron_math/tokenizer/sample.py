"""Texts that a conversion or a fast engine must encode as the original does, before it is used."""

SAMPLE = (
    "Question: Ann has 12 apples and buys 345 more. How many has she?\n"
    "Solution: 12 + 345 = 357. The answer is 357.",
    "Let $f(x) = \\frac{x^2 - 1}{\\sqrt{2\\pi}}$; then \\(\\int_0^1 f\\,dx \\neq 0\\).",
    "\\begin{align*}\n  a &= b \\\\\n    c &\\le \\lfloor d \\rfloor\n\\end{align*}\n\n\n",
    "def area(r):\n\tif r < 0:\n\t\traise ValueError('negative')\n    return 3.14159 * r**2",
    "  two leading spaces, three   inside, tabs\t\tand trailing ones   ",
    " one", "   ", "\n", "\r\n\r\n mixed\r line ends \n\t\n", "a", " ", "0",
    "007 1,000,000.25 1e-9",
    "It's we're I'VE they'll DON'T o'clock",
    "naïve café Übermaß œuvre Ångström São Paulo",
    "数学は美しい。 Математика красива. Τα μαθηματικά. الرياضيات जोड़ 수학",
    "∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−L|<ε, ℝⁿ ⊂ ℂ, ½ ² ₃ ﬁ Ａ",
    "🙂👩‍🔬🏳️‍🌈 e\u0301 \u00a0\u2009\u200b\u3000 \ufeff \x07 \x7f",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa -------------------------------- ================",
    "https://example.org/a?b=c&d=%20#e <b>html</b> {json: [1, 2]} C:\\path\\file.txt",
    "a < unk > is not an <unk> and <0x0A> no new line, <0x41> no A",
    " " * 40 + "deep" + " " * 97 + "deeper\n" + "\t" * 30 + "\n" * 30 + "ab" * 50,
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "",
)  # fmt: skip
