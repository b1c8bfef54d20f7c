"""The option that keeps a screenshot of the page."""


def pytest_addoption(parser):
    parser.addoption("--screenshot", help="file to keep the browser test's picture of the page in")
