import unittest

import tables


def vector(*entries):
    return [{"metric": labels, "value": [0, str(value)]} for labels, value in entries]


class TablesTest(unittest.TestCase):
    def test_layers_become_rows_in_the_order_of_numbers_and_norms_become_columns(self):
        frame = tables.from_vector(vector(({"layer": "1", "norm": "lns"}, 1), ({"layer": "10", "norm": "lns"}, 10),
                                          ({"layer": "2", "norm": "lns"}, 2), ({"layer": "1", "norm": "pre_ln"}, 7)), "Value")
        [matrix] = tables.transform([frame], [
            {"id": "groupingToMatrix", "options": {"columnField": "norm", "rowField": "layer", "valueField": "Value",
                                                   "emptyValue": "null"}},
            {"id": "organize", "options": {"renameByName": {"layer\\norm": "layer"}}},
            {"id": "convertFieldType", "options": {"conversions": [{"targetField": "layer", "destinationType": "number"}]}},
            {"id": "sortBy", "options": {"sort": [{"field": "layer"}]}}])
        self.assertEqual(matrix.columns, {"layer\\norm": [1, 2, 10], "lns": [1, 2, 10], "pre_ln": [7, None, None]})
        self.assertEqual(matrix.title("layer\\norm"), "layer")

    def test_rows_of_several_queries_join_where_their_labels_agree(self):
        frames = [tables.from_vector(vector(({"run": "a"}, 1), ({"run": "b"}, 2)), "Value #A"),
                  tables.from_vector(vector(({"run": "b"}, 5)), "Value #B")]
        [merged] = tables.transform(frames, [{"id": "merge", "options": {}}])
        self.assertEqual(merged.columns, {"run": ["a", "b"], "Value #A": [1, 2], "Value #B": [None, 5]})

    def test_rows_do_not_join_while_they_carry_the_names_of_different_metrics(self):
        frames = [tables.from_vector(vector(({"__name__": "step", "run": "a"}, 1)), "Value #A"),
                  tables.from_vector(vector(({"__name__": "loss", "run": "a"}, 5)), "Value #B")]
        [merged] = tables.transform(frames, [{"id": "merge", "options": {}}])
        self.assertEqual(len(merged.rows()), 2)

    def test_columns_are_chosen_named_and_ordered(self):
        frame = tables.from_vector(vector(({"run": "a", "job": "x", "norm": "lns"}, 1)), "Value")
        [chosen] = tables.transform([frame], [
            {"id": "filterFieldsByName", "options": {"include": {"names": ["run", "Value", "norm"]}}},
            {"id": "organize", "options": {"renameByName": {"Value": "Update"}, "indexByName": {"Value": 0, "run": 1}}}])
        self.assertEqual([chosen.title(name) for name in chosen.columns], ["Update", "run", "norm"])

    def test_what_is_not_known_is_refused(self):
        frame = tables.Frame({"layer": ["1"]})
        for step in ({"id": "mege", "options": {}}, {"id": "merge", "options": {"by": "run"}}):
            with self.subTest(step), self.assertRaises(ValueError):
                tables.transform([frame], [step])
        with self.assertRaises(KeyError):
            tables.transform([frame], [{"id": "sortBy", "options": {"sort": [{"field": "layr"}]}}])


if __name__ == "__main__":
    unittest.main()
