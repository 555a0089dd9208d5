// The words of a search on a Chinese page. A single Chinese character is no word of the index.
var splitQuery = (query) => {
  const parts = [...new Intl.Segmenter("zh", { granularity: "word" }).segment(query)];
  const words = parts.filter((part) => part.isWordLike).map((part) => part.segment);
  const kept = words.filter((word) => word.length > 1 || !/[\u4e00-\u9fff]/.test(word));
  return kept.length ? kept : query.split(/\s+/);
};
