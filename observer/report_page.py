def render(report, name):
    return ""
