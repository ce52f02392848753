"""spotrun.controller"""
