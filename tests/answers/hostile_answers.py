"""Answers that make graders hang or eat memory: (name, answer, reference), made at every call."""


def hostile_answers() -> list[tuple[str, str, str]]:
    """Towers of powers, nested functions, huge matrices, a megabyte of anything, and the like."""
    matrix = (
        r"\begin{pmatrix}" + r"\\".join("&".join("1" * 9) for _ in range(45)) + r"\end{pmatrix}"
    )
    long_matrix = r"\begin{pmatrix}" + "&".join(["1"] * 300_000) + r"\end{pmatrix}"
    texts = {
        "tower": "5^(5^(5^(5^5)))",
        "tower in braces": "9^{9^{9^{9^9}}}",
        "tower, associated otherwise": "((((9^9)^9)^9)^9)^9",
        "tower of nines": "9^" * 400 + "9",
        "tower minus itself": "5^{5^{5^{5}}}-5^{5^{5^{5}}}",
        "small base, huge power": "1.0000001^{10^{15}}",
        "huge power of two": "2^{10^{12}}",
        "power of a power": "(10^{1000})^{1000}",
        "last digits": "7^{7^{100}}+1",
        "root of a tower": r"\sqrt{9^{9^{9^9}}}",
        "fraction of towers": r"\frac{9^{9^{9^9}}}{9^{9^{9^9}}+1}",
        "expanding power": "(a+b+c+d+f)^{200}",
        "symbolic tower": "x^{x^{x^{x^{x^{x^x}}}}}",
        "nested logarithms": r"\log(" * 40 + "2" + ")" * 40,
        "nested ln of a tower": r"\ln(" * 20 + "9^{9^{9^9}}" + ")" * 20,
        "nested roots": r"\sqrt{" * 300 + "2" + "}" * 300,
        "nested exponentials": r"e^{" * 60 + "9" + "}" * 60,
        "nested sines": r"\sin(" * 150 + "x" + ")" * 150,
        "nested fractions": r"\frac{1}{" * 90 + "2" + "}" * 90,
        "nested brackets": "(" * 450 + "1" + ")" * 450,
        "nested absolute values": "|" * 800,
        "open brackets": "(" * 900,
        "open braces": "{" * 900,
        "factorial of factorials": "((10!)!)!",
        "many factorials": "100!" * 50,
        "exclamation marks": "9" + "!" * 900,
        "huge binomial": r"\binom{10^{9}}{5 \cdot 10^{8}}",
        "sum over a trillion": r"\sum_{n=1}^{10^{12}} \frac{1}{n^2}",
        "product over a trillion": r"\prod_{n=1}^{10^{12}} \left(1+\frac{1}{n}\right)",
        "integral without a form": r"\int_0^1 x^{x^{x^{x}}} dx",
        "nested integrals": r"\int_0^1 " * 30 + "x",
        "limit of a tower": r"\lim_{x \to \infty} x^{x^{x}}",
        "long sum": "1+" * 490 + "1",
        "long product": "x*" * 490 + "x",
        "long sum of roots": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 80)),
        "long digits": "9" * 999,
        "long decimals": "0." + "3" * 990,
        "long letters": "x" * 999,
        "long list": "1," * 490 + "1",
        "list of roots": ",".join(rf"\sqrt{{{n}}}" for n in range(2, 80)),
        "set of nested sets": r"\{" * 200 + "1" + r"\}" * 200,
        "matrix of ones": matrix,
        "plus-minus": r"1 \pm " * 80 + "1",
        "many unions": r"(0,1) \cup " * 70 + "(0,1)",
        "half a character": "\ud800 7",
        "zero bytes": "\x00" * 500 + "7",
        "text direction": "\u202e7" * 200,
        "scientific": "1e999999999",
        "repeating": r"0.\overline{" + "142857" * 100 + "}",
        "megabyte of digits": "9" * (1 << 20),
        "megabyte of fractions": "1/" * (1 << 19),
        "megabyte of \\frac": r"\frac{" * 170_000,
        "megabyte of \\text": r"\text{" * 170_000,
        "megabyte of brackets": "(" * (1 << 20),
        "megabyte of dollars": "$" * (1 << 20),
        "megabyte of spaces": "5" + " " * (1 << 20) + "6",
        "megabyte of commas": "1," * (1 << 19),
        "megabyte of Chinese numerals": "一" * (1 << 19),
        "megabyte of number words": "one " * (1 << 18),
        "megabyte of a matrix": long_matrix,
        "megabyte of powers": "2^" * (1 << 19),
    }
    found = [(name, text, "p - q") for name, text in texts.items()]
    to_a_number = (
        "tower", "tower in braces", "last digits", "huge power of two", "nested logarithms",
        "factorial of factorials", "huge binomial", "long digits", "plus-minus", "scientific",
        "half a character", "repeating", "matrix of ones",
    )  # fmt: skip
    found += [(f"{name}, to a number", texts[name], "5") for name in to_a_number]
    found += [("both towers", "9^{9^{9^{9^9}}}", "9^{9^{9^{9^{10}}}}")]
    found += [("both large", "2^{10^{7}}", "4^{5 \\cdot 10^{6}}+1")]
    return found
