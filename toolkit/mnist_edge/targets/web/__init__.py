"""One offline HTML file that draws, prepares and classifies digits, and the browser that checks it."""
