"""spotrun.market"""
