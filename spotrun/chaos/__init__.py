"""spotrun.chaos"""
