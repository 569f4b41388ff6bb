"""A benchmark of methods that learn from private text. Run it with `python -m recipes.benchmark`.

From the bottom up: `cache` keeps results, `data` reads texts, `votes` counts, `learners` and `methods` are the two
tables of what is compared, `experiment` measures one row of them, `comparison` runs all, and `tables` and `pictures`
show it. A new method is a row in `methods`. A new model to finetune is a row in `learners`.
"""
