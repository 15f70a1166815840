"""How HTTP is spoken: who may ask, parameters, bodies, forms of answers and errors."""
