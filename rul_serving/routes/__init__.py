"""The addresses: each handler says what it takes, asks, and answers.

What belongs here: the HTTP side of one resource a module. What does not: how answers are found
(the modules of ``rul_serving`` beside this package).
"""
