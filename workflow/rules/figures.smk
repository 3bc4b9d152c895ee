rule figures:
    input:
        each(PANELS, config["figure3"]["cells"]),
