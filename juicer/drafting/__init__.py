"""A first recipe from what is here: the data, the model and the machine are looked at, and the choices are explained.

Contract: nothing is trained, and nothing is written but the recipe, and the config.json of a hub model beside it.
Pitfall: what is chosen is a starting point; limits and shares are measured, learning rates are rules of thumb.
"""
