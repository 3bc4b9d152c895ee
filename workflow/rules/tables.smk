# Tables 1, 3 and 4.
rule tables:
    input:
        each(METRICS, TABLE1_CELLS),
