"""The broker's advisories and DEAD -> letters that can be read and sent again."""
